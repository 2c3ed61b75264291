//! Where the events of a stream end, in each of the forms that streams have.

use memchr::memchr;

use crate::eventstream;
use crate::grpc::frame;
use crate::sse;

/// Finds the ends of events in bytes that come in pieces; the result does not depend on the pieces.
#[derive(Debug, Clone)]
pub enum Framer {
    /// Server-sent events.
    Events(sse::Framer),
    /// JSON on each line.
    Lines,
    /// Amazon's event stream.
    Frames(eventstream::Framer),
    /// Messages of gRPC.
    Grpc(frame::Framer),
}

// === impl Framer ===

impl Framer {
    /// The offset after the first event that ends in `bytes`, which continue what earlier calls
    /// were given; `None` when no event ends here. After `Some` give it the rest.
    #[inline]
    pub fn next(&mut self, bytes: &[u8]) -> Option<usize> {
        match self {
            Framer::Events(framer) => framer.next(bytes),
            Framer::Lines => memchr(b'\n', bytes).map(|at| at + 1),
            Framer::Frames(framer) => framer.next(bytes),
            Framer::Grpc(framer) => framer.next(bytes),
        }
    }
}
