//! The connection of one call: HTTP/1 or a stream of HTTP/2, from Pingora's pool and back to it.

use bytes::Bytes;
use http::{Version, header, uri};
use pingora::connectors::http::Connector;
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::prelude::HttpPeer;
use pingora::protocols::http::client::HttpSession;
use pingora::upstreams::peer::Peer;
use pingora::{Error, ErrorType, Result};

/// A connection, or the wish for one. Dropping it in the middle of an exchange ends that.
pub struct Wire {
    peer: Box<HttpPeer>,
    session: Option<HttpSession>,
    reused: Option<bool>,
}

impl Wire {
    /// A wire to this peer, not connected.
    pub fn to(peer: Box<HttpPeer>) -> Self {
        Self {
            peer,
            session: None,
            reused: None,
        }
    }

    /// Whether its connection was one of the pool's; `None` before there is one.
    pub fn reused(&self) -> Option<bool> {
        self.reused
    }

    /// Takes a connection of the pool or makes one. Whether it speaks HTTP/2, and whether it was one of
    /// the pool's.
    pub async fn connect(&mut self, connector: &Connector) -> Result<(bool, bool)> {
        let connected = connector.get_http_session(&*self.peer).await;
        let (mut session, reused) = connected.map_err(|error| error.into_up())?;
        session.set_read_timeout(self.peer.options.read_timeout);
        session.set_write_timeout(self.peer.options.write_timeout);
        let http2 = matches!(session, HttpSession::H2(_));
        self.session = Some(session);
        self.reused = Some(reused);
        Ok((http2, reused))
    }

    /// Sends a request whose body is whole, and waits for the head of its answer.
    pub async fn ask(&mut self, head: &RequestHeader, body: Bytes) -> Result<Box<ResponseHeader>> {
        let session = self.session.as_mut().ok_or_else(unconnected)?;
        let mut head = head.clone();
        match session {
            HttpSession::H2(_) => address(&mut head, self.peer.is_tls())?,
            _ => head.set_version(Version::HTTP_11),
        }
        let asked = async {
            session.write_request_header(Box::new(head)).await?;
            session.write_request_body(body, true).await?;
            session.finish_request_body().await?;
            loop {
                session.read_response_header().await?;
                let head = session.response_header().ok_or_else(unconnected)?;
                match head.status.as_u16() {
                    101 => return Err(strange("another protocol, which nobody asked for")),
                    100..200 => {}
                    _ => return Ok(Box::new(head.clone())),
                }
            }
        };
        asked.await.map_err(|error: Box<Error>| error.into_up())
    }

    /// The next piece of the answer's body; `None` at its end.
    pub async fn piece(&mut self) -> Result<Option<Bytes>> {
        let session = self.session.as_mut().ok_or_else(unconnected)?;
        let piece = session.read_response_body().await;
        piece.map_err(|error| error.into_up())
    }

    /// True when no more of the answer comes.
    pub fn is_done(&mut self) -> bool {
        self.session
            .as_mut()
            .is_some_and(HttpSession::response_done)
    }

    /// Gives the connection back when the answer is whole.
    pub async fn release(self, connector: &Connector) {
        if let Some(session) = self.session {
            let idle = self.peer.idle_timeout();
            connector
                .release_http_session(session, &*self.peer, idle)
                .await;
        }
    }
}

/// As HTTP/2 has it: `Host` goes where the URI's authority is (RFC 9113, section 8.3.1).
fn address(head: &mut RequestHeader, tls: bool) -> Result<()> {
    head.set_version(Version::HTTP_2);
    let host = head.remove_header(&header::HOST);
    let path = head.uri.path_and_query().cloned();
    let (Some(host), Some(path)) = (host, path) else {
        return Err(strange("a request without host or path"));
    };
    let uri = uri::Builder::new()
        .scheme(if tls { "https" } else { "http" })
        .authority(host.as_bytes())
        .path_and_query(path)
        .build();
    let uri = uri.map_err(|_| strange("a host that is none"))?;
    head.set_uri(uri);
    Ok(())
}

fn unconnected() -> Box<Error> {
    Error::explain(ErrorType::InternalError, "a call that has no connection")
}

fn strange(what: &'static str) -> Box<Error> {
    Error::explain(ErrorType::InvalidHTTPHeader, what)
}
