//! The session of a client that has left, while its answer is read on for the usage at its end.
//!
//! It takes what would have gone to the client and drops it, up to a limit. It knows what the client
//! had asked and whether it had seen an answer's head; the connection itself is gone.

use crate::govern::Drain;
use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::protocols::Digest;
use pingora::protocols::http::custom::CustomMessageWrite;
use pingora::protocols::http::custom::server::Session as CustomSession;
use pingora::protocols::http::{HttpTask, ServerSession};
use pingora::protocols::l4::socket::SocketAddr;
use pingora::{Error, ErrorType, Result};
use std::time::Duration;

/// An answer that goes on longer than this after its client has left is not read to its end.
const DRAIN_BYTES_MAX: usize = 16 << 20;

pub(super) struct Sink {
    asked: Box<RequestHeader>,
    seen: Option<Box<ResponseHeader>>,
    sent_bytes: usize,
    read_bytes: usize,
    left_bytes: usize,
    _place: Drain,
}

impl Sink {
    /// What stays of `session` for as long as `place` is held.
    pub(super) fn of(session: &ServerSession, place: Drain) -> Self {
        Self {
            asked: Box::new(session.req_header().clone()),
            seen: session.response_written().cloned().map(Box::new),
            sent_bytes: session.body_bytes_sent(),
            read_bytes: session.body_bytes_read(),
            left_bytes: DRAIN_BYTES_MAX,
            _place: place,
        }
    }

    fn take(&mut self, piece: &[u8]) -> Result<()> {
        match self.left_bytes.checked_sub(piece.len()) {
            Some(left) => {
                self.left_bytes = left;
                Ok(())
            }
            None => Error::e_explain(
                ErrorType::ConnectionClosed,
                "the client left, and its answer is too long to be read on",
            )
            .map_err(|error| error.into_down()),
        }
    }
}

#[async_trait]
impl CustomSession for Sink {
    // Nothing comes any more.

    async fn read_body_or_idle(&mut self, _: bool) -> Result<Option<Bytes>> {
        std::future::pending().await
    }

    async fn read_body_bytes(&mut self) -> Result<Option<Bytes>> {
        Ok(None)
    }

    async fn drain_request_body(&mut self) -> Result<()> {
        Ok(())
    }

    fn is_body_done(&mut self) -> bool {
        true
    }

    fn is_body_empty(&mut self) -> bool {
        true
    }

    fn get_retry_buffer(&self) -> Option<Bytes> {
        None
    }

    fn retry_buffer_truncated(&self) -> bool {
        true
    }

    fn enable_retry_buffering(&mut self) {}

    // What goes is dropped.

    async fn response_duplex_vec(&mut self, tasks: Vec<HttpTask>) -> Result<bool> {
        let mut end = false;
        for task in tasks {
            end |= task.is_end();
            match task {
                HttpTask::Body(Some(piece), _) => self.take(&piece)?,
                HttpTask::Failed(error) => return Err(error),
                _ => {}
            }
        }
        Ok(end)
    }

    async fn write_response_header(&mut self, _: Box<ResponseHeader>, _: bool) -> Result<()> {
        Ok(())
    }

    async fn write_response_header_ref(&mut self, _: &ResponseHeader, _: bool) -> Result<()> {
        Ok(())
    }

    async fn write_body(&mut self, data: Bytes, _: bool) -> Result<()> {
        self.take(&data)
    }

    async fn write_trailers(&mut self, _: HeaderMap) -> Result<()> {
        Ok(())
    }

    async fn finish(&mut self) -> Result<()> {
        Ok(())
    }

    async fn shutdown(&mut self, _: u32, _: &str) {}

    // What is remembered of the client.

    fn req_header(&self) -> &RequestHeader {
        &self.asked
    }

    fn req_header_mut(&mut self) -> &mut RequestHeader {
        &mut self.asked
    }

    fn response_written(&self) -> Option<&ResponseHeader> {
        self.seen.as_deref()
    }

    fn request_summary(&self) -> String {
        format!("{} {}", self.asked.method, self.asked.uri.path())
    }

    fn body_bytes_sent(&self) -> usize {
        self.sent_bytes
    }

    fn body_bytes_read(&self) -> usize {
        self.read_bytes
    }

    fn is_upgrade_req(&self) -> bool {
        false
    }

    fn was_upgraded(&self) -> bool {
        false
    }

    fn pseudo_raw_h1_request_header(&self) -> Bytes {
        Bytes::new()
    }

    // There is no connection.

    fn digest(&self) -> Option<&Digest> {
        None
    }

    fn digest_mut(&mut self) -> Option<&mut Digest> {
        None
    }

    fn client_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn server_addr(&self) -> Option<&SocketAddr> {
        None
    }

    fn set_read_timeout(&mut self, _: Option<Duration>) {}

    fn get_read_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_write_timeout(&mut self, _: Option<Duration>) {}

    fn get_write_timeout(&self) -> Option<Duration> {
        None
    }

    fn set_total_drain_timeout(&mut self, _: Option<Duration>) {}

    fn get_total_drain_timeout(&self) -> Option<Duration> {
        None
    }

    async fn finish_custom(&mut self) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_reader(
        &mut self,
    ) -> Option<Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>>
    {
        None
    }

    fn restore_custom_message_reader(
        &mut self,
        _: Box<dyn futures_core::Stream<Item = Result<Bytes>> + Unpin + Send + Sync + 'static>,
    ) -> Result<()> {
        Ok(())
    }

    fn take_custom_message_writer(&mut self) -> Option<Box<dyn CustomMessageWrite>> {
        None
    }

    fn restore_custom_message_writer(&mut self, _: Box<dyn CustomMessageWrite>) -> Result<()> {
        Ok(())
    }
}
