//! Who a client is, as its certificate says. A plain value: `listen` fills it in, the plan compares it.

use std::time::SystemTime;

/// What a verified client certificate says about its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The subject as RFC 4514 writes it, most specific part first: `CN=ana,O=search`. Empty where
    /// the certificate has none.
    pub subject: String,
    /// URIs among its alternative names, each once; a SPIFFE ID is one of them.
    pub uris: Vec<String>,
    /// When the certificate expires.
    pub not_after: SystemTime,
}

impl Identity {
    /// The one name that stands for the client: the first URI where there is one, for SPIFFE says
    /// more than a subject, else the subject.
    pub fn name(&self) -> &str {
        self.uris.first().unwrap_or(&self.subject)
    }
}
