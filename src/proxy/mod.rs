//! The corridor: Pingora's phases in order, each one to five lines that name the step.
//!
//! `arrive → plan (peek) → connect → forward → reply → settle`, and from anywhere `→ refuse`.
//! The only backward step is a retry: `connect` again, with a fresh attempt.

mod affinity;
mod arrive;
mod ask;
mod call;
mod carriage;
mod connect;
mod course;
mod forward;
mod journey;
mod peek;
mod plan;
mod reckon;
mod refuse;
mod replay;
mod reply;
pub mod settings;
mod settle;
mod standing;
mod surface;
mod weigh;

pub use plan::{Surface, model_in_path};

use crate::snapshot::Live;
use async_trait::async_trait;
use bytes::Bytes;
use call::Calls;
use journey::Journey;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::prelude::HttpPeer;
use pingora::protocols::Digest;
use pingora::server::configuration::ServerConf;
use pingora::{Error, Result};
use pingora_proxy::{FailToProxy, ProxyHttp, ProxyWarnLogContext, Session};
use std::sync::Arc;
use std::time::Duration;

/// weir as Pingora sees it.
pub struct Proxy {
    live: Arc<Live>,
    calls: Arc<Calls>,
}

impl Proxy {
    /// A proxy that serves the live snapshot; `conf` says how many connections are kept.
    pub fn new(live: Arc<Live>, conf: &ServerConf) -> Self {
        Self {
            live,
            calls: Arc::new(Calls::new(conf)),
        }
    }
}

#[async_trait]
impl ProxyHttp for Proxy {
    type CTX = Journey;

    fn new_ctx(&self) -> Journey {
        Journey::begin(self.live.pin())
    }

    /// None of Pingora's modules: bytes pass as they are, compression is the upstream's affair.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(
        &self,
        session: &mut Session,
        journey: &mut Journey,
    ) -> Result<()> {
        arrive::arrive(session, journey);
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, journey: &mut Journey) -> Result<bool> {
        match plan::plan(session, journey).await {
            Ok(plan::Step::Onward) => call::serve(session, journey, &self.calls).await,
            Ok(plan::Step::Answered) => Ok(true),
            Err(refusal) => refuse::answer(session, journey, refusal).await,
        }
    }

    async fn upstream_peer(
        &self,
        session: &mut Session,
        journey: &mut Journey,
    ) -> Result<Box<HttpPeer>> {
        connect::next(Some(session), journey).await
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        journey: &mut Journey,
        error: Box<Error>,
    ) -> Box<Error> {
        connect::failed(journey, error)
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        reused: bool,
        peer: &HttpPeer,
        _descriptor: std::os::fd::RawFd,
        _digest: Option<&Digest>,
        journey: &mut Journey,
    ) -> Result<()> {
        connect::connected(journey, peer, reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        _session: &mut Session,
        request: &mut RequestHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        forward::head(request, journey)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        _end: bool,
        journey: &mut Journey,
    ) -> Result<()> {
        forward::body(body, journey)
    }

    async fn upstream_response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        journey: &mut Journey,
    ) -> Result<()> {
        reply::head(session, response, journey)
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end: bool,
        journey: &mut Journey,
    ) -> Result<Option<Duration>> {
        reply::body(body, end, journey)?;
        Ok(None)
    }

    fn upstream_response_trailer_filter(
        &self,
        _session: &mut Session,
        trailers: &mut http::HeaderMap,
        journey: &mut Journey,
    ) -> Result<()> {
        reply::trailers(trailers, journey)
    }

    async fn response_trailer_filter(
        &self,
        _session: &mut Session,
        _trailers: &mut http::HeaderMap,
        journey: &mut Journey,
    ) -> Result<Option<Bytes>> {
        reply::ended_by_trailers(journey)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        journey: &mut Journey,
        reused: bool,
    ) -> Box<Error> {
        connect::broke(session, journey, error, reused)
    }

    async fn fail_to_proxy(
        &self,
        session: &mut Session,
        error: &Error,
        journey: &mut Journey,
    ) -> FailToProxy {
        refuse::failed(session, journey, error).await
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, journey: &mut Journey) {
        settle::over(session, error, journey);
    }

    /// weir writes its own record of each request; see `settle`.
    fn suppress_error_log(&self, _: &Session, _: &Journey, _: &Error) -> bool {
        true
    }

    fn suppress_proxy_warn_log(
        &self,
        _: &Session,
        _: &Journey,
        _: &Error,
        _: ProxyWarnLogContext,
    ) -> bool {
        true
    }
}
