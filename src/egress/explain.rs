//! The choice of a road in words, for `weir explain`. Resolves, but never connects.

use std::fmt;
use std::net::IpAddr;

use weir_dns::{Answer, LookupError};

use super::settings::Authority;
use super::{Egress, Endpoint, Road, RoadError, Rule};

/// What `weir explain` says about the road to an endpoint.
#[derive(Clone, Debug)]
pub struct Explanation {
    target: String,
    addresses: Result<Answer, LookupError>,
    choice: Result<(Road, Rule), RoadError>,
    pattern: Option<String>,
    proxy: Option<String>,
}

impl Egress {
    /// What [`Egress::way`] would choose, and by what.
    pub async fn explain(&self, endpoint: &Endpoint) -> Explanation {
        let way = self.way(endpoint).await;
        let proxy = way.as_ref().ok().and_then(|way| way.proxy());
        let proxy = proxy.map(ToString::to_string);
        let choice = way.map(|way| (way.road, way.rule));
        let pattern = match &choice {
            Ok((_, rule)) | Err(RoadError::NoProxy { rule, .. }) => self.rules.pattern(*rule),
            Err(_) => None,
        };
        Explanation {
            target: Authority(&endpoint.host, endpoint.port).to_string(),
            addresses: self.resolver.lookup(&endpoint.host).await,
            choice,
            pattern: pattern.map(ToString::to_string),
            proxy,
        }
    }
}

// === impl Explanation ===

impl Explanation {
    /// The road and the rule, or why there is none.
    pub fn choice(&self) -> Result<(Road, Rule), &RoadError> {
        self.choice.as_ref().map(|choice| *choice)
    }

    /// The addresses that the host has here, whether the road needs them or not.
    pub fn addresses(&self) -> Result<&[IpAddr], &LookupError> {
        self.addresses.as_deref()
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (road, rule) = match &self.choice {
            Ok(choice) => choice,
            Err(error) => return write!(f, "{}: no road: {error}", self.target),
        };
        write!(f, "{}: {road}", self.target)?;
        if let Some(proxy) = &self.proxy {
            write!(f, " {proxy}")?;
        }
        f.write_str(", because ")?;
        match rule {
            Rule::Provider => f.write_str("the provider's egress says so")?,
            Rule::Proxied(_) | Rule::Direct(_) => {
                write!(f, "{rule} has {}", self.pattern.as_deref().unwrap_or("it"))?;
            }
            Rule::Intranet => f.write_str("all its addresses are intranet")?,
            Rule::Unresolved => f.write_str("the name can't be resolved here")?,
            Rule::External => f.write_str("not all its addresses are intranet")?,
            Rule::NoProxy => f.write_str("there is no proxy_url")?,
        }
        match &self.addresses {
            Ok(addresses) => write!(f, " ({})", Addresses(addresses)),
            Err(error) => write!(f, " ({error})"),
        }
    }
}

struct Addresses<'a>(&'a [IpAddr]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
        }
        Ok(())
    }
}
