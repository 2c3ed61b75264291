//! The first leg of an answer that no meter can read as it comes: the messages of gRPC, which become an
//! answer in OpenAI's dialect. How the call ended stands in its trailers, or in its head where there is
//! nothing else; without that it is cut.

use crate::dialect::grpc::status::{GRPC_MESSAGE, GRPC_RETRY_PUSHBACK, GRPC_STATUS, Status};
use crate::dialect::openai::chat::answer_out;
use crate::dialect::translate::{Translator, unreadable};
use crate::tokens::meter::{Form, Surface};
use bytes::Bytes;
use http::{HeaderMap, StatusCode, header};
use pingora::http::ResponseHeader;
use std::time::Duration;

/// See the module.
#[derive(Debug)]
pub struct First {
    translator: Translator,
    /// How the call ended, once it is known.
    status: Option<Status>,
    /// When the worker wants to be called again.
    pushback: Option<Duration>,
    /// Its head says that it is one of gRPC.
    is_grpc: bool,
    /// What follows was told already.
    over: bool,
}

// === impl First ===

impl First {
    pub fn new(translator: Translator) -> Self {
        Self {
            translator,
            status: None,
            pushback: None,
            is_grpc: false,
            over: false,
        }
    }

    /// The head has come: a call that failed at once gets the status of HTTP that says so.
    pub fn head(&mut self, response: &mut ResponseHeader, surface: Surface) -> pingora::Result<()> {
        self.is_grpc = (response.headers.get(header::CONTENT_TYPE))
            .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
        self.translator.begin(match surface {
            Surface::Embeddings => Form::Body,
            _ => Form::Grpc,
        });
        self.status = status(&response.headers);
        if let Some(status) = self
            .failed_status()
            .filter(|_| response.status == StatusCode::OK)
        {
            response.set_status(status.failure().status)?;
        }
        self.pushback = pushback(&response.headers);
        if let Some(after) = self.pushback {
            response.insert_header("retry-after-ms", after.as_millis().to_string())?;
        }
        let theirs: Vec<_> = (response.headers.keys())
            .filter(|name| name.as_str().starts_with("grpc-"))
            .cloned()
            .collect();
        for name in theirs.iter().chain([&header::TRAILER]) {
            response.remove_header(name);
        }
        Ok(())
    }

    /// How a call ended whose status came with its head, if it did: with which status of HTTP, where it
    /// failed.
    pub fn ended_at_once(&self) -> Option<Result<(), u16>> {
        let status = self.status.as_ref()?;
        Some(match status.is_ok() {
            true => Ok(()),
            false => Err(status.failure().status),
        })
    }

    /// When a worker that failed wants to be called again.
    pub fn pushback(&self) -> Option<Duration> {
        self.pushback
    }

    /// The form of what it gives.
    pub fn form(&self, surface: Surface) -> Form {
        match surface {
            Surface::Embeddings => Form::Body,
            _ => Form::Events,
        }
    }

    /// Whether it speaks gRPC at all.
    pub fn is_grpc(&self) -> bool {
        self.is_grpc
    }

    /// The words of a call that failed at once, as a body of OpenAI's dialect.
    pub fn refusal(&self) -> Vec<u8> {
        let said = self.failed_status().map(Status::failure);
        said.map_or_else(Vec::new, |failure| {
            answer_out::error(&failure).to_string().into_bytes()
        })
    }

    /// Carries a piece over.
    pub fn piece(&mut self, piece: &[u8]) -> Bytes {
        let mut out = Vec::new();
        // A failure is told in the stream; that of a whole answer comes at its end.
        if !self.over && self.translator.feed(piece, &mut out).is_err() {
            self.over = true;
        }
        out.into()
    }

    /// Trailers have come.
    pub fn trailers(&mut self, trailers: &HeaderMap) {
        if let Some(status) = status(trailers) {
            self.status = Some(status);
        }
    }

    /// Nothing more comes: the rest.
    pub fn end(&mut self) -> Bytes {
        let mut out = Vec::new();
        if !std::mem::replace(&mut self.over, true) {
            match &self.status {
                // What is wrong is told in the stream; a body that isn't whole is none.
                Some(status) if status.is_ok() => drop(self.translator.end(&mut out)),
                Some(status) => self.translator.fails(status.failure(), &mut out),
                None => {
                    let cut = unreadable("it ended its answer without saying how");
                    self.translator.fails(cut, &mut out);
                }
            }
        }
        out.into()
    }

    /// Bytes that it holds.
    pub fn bytes(&self) -> usize {
        self.translator.bytes()
    }

    fn failed_status(&self) -> Option<&Status> {
        self.status.as_ref().filter(|status| !status.is_ok())
    }
}

fn status(headers: &HeaderMap) -> Option<Status> {
    let text = |name| headers.get(name)?.to_str().ok();
    let code = headers.get(GRPC_STATUS)?;
    Some(Status::of(
        code.to_str().unwrap_or_default(),
        text(GRPC_MESSAGE),
    ))
}

/// When the worker wants to be called again.
fn pushback(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers.get(GRPC_RETRY_PUSHBACK)?.to_str().ok()?;
    Some(Duration::from_millis(millis.trim().parse().ok()?))
}
