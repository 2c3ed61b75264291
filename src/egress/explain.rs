//! The choice of a road in words, for `weir explain`. Resolves, but never connects.

use std::fmt;
use std::net::IpAddr;

use weir_dns::{Answer, LookupError};

use super::settings::Authority;
use super::{Egress, Endpoint, Mode, Proxies, Road, RoadError, Rule, Why};

/// What `weir explain` says about the road to an endpoint.
#[derive(Clone, Debug)]
pub struct Explanation {
    target: String,
    addresses: Result<Answer, LookupError>,
    choice: Result<(Road, Rule), RoadError>,
    /// The addresses are only those that could be had.
    lacks_ipv4: bool,
    pattern: Option<String>,
    /// In their order; empty for the direct road.
    proxies: Vec<String>,
    /// Those of `addresses` that no upstream may have.
    forbidden: Vec<(IpAddr, Why)>,
}

impl Egress {
    /// What [`Egress::way`] would choose, and by what.
    pub async fn explain(&self, endpoint: &Endpoint) -> Explanation {
        let way = self.way(endpoint).await;
        let choice = way.map(|way| (way.road, way.rule));
        let proxies = match (&choice, &endpoint.mode) {
            (Ok((Road::Proxy, _)), Mode::Proxy(Some(own))) => own,
            (Ok((Road::Proxy, _)), _) => &self.proxies,
            _ => &Proxies::default(),
        };
        let pattern = match &choice {
            Ok((_, rule)) | Err(RoadError::NoProxy { rule, .. }) => self.rules.pattern(*rule),
            Err(_) => None,
        };
        let addresses = match &endpoint.literal {
            Some(literal) => Ok(Answer::clone(literal)),
            None => self.resolver.lookup(&endpoint.host).await,
        };
        let all = addresses.as_deref().unwrap_or_default().iter();
        let forbidden = all.filter_map(|ip| Some((*ip, self.why(*ip, endpoint.port)?)));
        Explanation {
            target: Authority(&endpoint.host, endpoint.port).to_string(),
            forbidden: forbidden.collect(),
            lacks_ipv4: endpoint.literal.is_none() && self.resolver.lacks_ipv4(&endpoint.host),
            choice,
            pattern: pattern.map(ToString::to_string),
            proxies: proxies.iter().map(ToString::to_string).collect(),
            addresses,
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

    /// Those of the addresses that are refused, and why.
    pub fn forbidden(&self) -> &[(IpAddr, Why)] {
        &self.forbidden
    }
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (road, rule) = match &self.choice {
            Ok(choice) => choice,
            Err(error) => return write!(f, "{}: no road: {error}", self.target),
        };
        write!(f, "{}: {road}", self.target)?;
        for (at, proxy) in self.proxies.iter().enumerate() {
            let or = if at == 0 { "" } else { ", else" };
            write!(f, "{or} {proxy}")?;
        }
        f.write_str(", because ")?;
        match rule {
            Rule::Provider => f.write_str("the provider's egress says so")?,
            Rule::Proxied(_) | Rule::Direct(_) | Rule::Environment(_) => {
                write!(f, "{rule} has {}", self.pattern.as_deref().unwrap_or("it"))?;
            }
            Rule::Unsettled => {
                f.write_str("its addresses are intranet now, and weren't a moment ago")?;
            }
            Rule::Intranet => f.write_str("all its addresses are intranet")?,
            Rule::Unresolved if self.lacks_ipv4 => {
                f.write_str("its IPv4 addresses can't be resolved here")?;
            }
            Rule::Unresolved => f.write_str("the name can't be resolved here")?,
            Rule::External => f.write_str("not all its addresses are intranet")?,
            Rule::NoProxy => f.write_str("there is no proxy_url")?,
        }
        match &self.addresses {
            Ok(addresses) => write!(f, " ({})", Addresses(addresses, &self.forbidden)),
            Err(error) => write!(f, " ({error})"),
        }
    }
}

/// Addresses, and which of them are refused.
struct Addresses<'a>(&'a [IpAddr], &'a [(IpAddr, Why)]);

impl fmt::Display for Addresses<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.0.iter().enumerate() {
            let comma = if at == 0 { "" } else { ", " };
            write!(f, "{comma}{address}")?;
            if let Some((_, why)) = self.1.iter().find(|(ip, _)| ip == address) {
                write!(f, " refused: {why}")?;
            }
        }
        Ok(())
    }
}
