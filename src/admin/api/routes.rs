//! The table of all requests that the admin listener knows.

use super::answer::{Created, Document, Exposition, Gone, Json, Ready, Text};
use super::document::document;
use super::guard::Needs;
use super::nouns::{KeyName, KeyQuery, LimitQuery, NewKey, Overlap, UsageQuery};
use super::route::{Asked, At, JsonBody, Nothing};
use http::Method;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;

/// The table.
pub(super) fn all() -> &'static [At] {
    static ALL: LazyLock<Vec<At>> = LazyLock::new(table);
    &ALL
}

/// Nothing is read.
type Plain = Asked<Nothing, Nothing, Nothing>;
/// A query is read.
type Query<Q> = Asked<Nothing, Q, Nothing>;
/// The path names a key.
type Named = Asked<KeyName, Nothing, Nothing>;

fn table() -> Vec<At> {
    let open = |path| At::new(path, Needs::Nothing);
    let api = |path| At::new(path, Needs::Leave);
    vec![
        open("/health/live").on(
            Method::GET,
            "live",
            "The process answers",
            |_: Plain| async { Ok(Text("OK".into())) },
        ),
        open("/healthz").on(
            Method::GET,
            "healthz",
            "The process answers",
            |_: Plain| async { Ok(Text("OK".into())) },
        ),
        open("/health/ready").on(
            Method::GET,
            "ready",
            "New requests are welcome",
            |asked: Plain| async move { Ok(Ready(asked.known.ready.load(Ordering::Relaxed))) },
        ),
        At::new("/metrics", Needs::Token).on(
            Method::GET,
            "metrics",
            "All metrics in Prometheus' text format",
            |asked: Plain| async move { Ok(Exposition((asked.known.metrics)().await)) },
        ),
        api("/api/openapi.json").on(Method::GET, "openapi", "This document", |_: Plain| async {
            Ok(Document(document()))
        }),
        api("/api/usage").on(
            Method::GET,
            "usage",
            "What was used, summed",
            |asked: Query<UsageQuery>| async move {
                asked.known.weir.usage(asked.query).await.map(Json)
            },
        ),
        api("/api/limits").on(
            Method::GET,
            "limits",
            "What is in use now",
            |asked: Query<LimitQuery>| async move {
                asked.known.weir.limits(asked.query).await.map(Json)
            },
        ),
        api("/api/upstreams").on(
            Method::GET,
            "upstreams",
            "The endpoints of this process' configuration, and how they stand",
            |asked: Plain| async move { asked.known.weir.upstreams().await.map(Json) },
        ),
        api("/api/teams").on(
            Method::GET,
            "teams",
            "The teams with their limits, and how those stand",
            |asked: Plain| async move { asked.known.weir.teams().await.map(Json) },
        ),
        api("/api/keys")
            .on(
                Method::GET,
                "keys",
                "All keys, without their secrets",
                |asked: Query<KeyQuery>| async move {
                    asked.known.weir.keys(asked.query).await.map(Json)
                },
            )
            .on(
                Method::POST,
                "make_key",
                "The new key with its secret, which is told this once",
                |asked: Asked<Nothing, Nothing, JsonBody<NewKey>>| async move {
                    let JsonBody(key) = asked.body;
                    asked.known.weir.make_key(key).await.map(Created)
                },
            ),
        api("/api/keys/{team}/{name}")
            .on(
                Method::GET,
                "key",
                "One key, without its secret",
                |asked: Named| async move { asked.known.weir.key(asked.path).await.map(Json) },
            )
            .on(
                Method::DELETE,
                "revoke_key",
                "The key is refused from now on",
                |asked: Named| async move {
                    let revoked = asked.known.weir.revoke_key(asked.path).await;
                    revoked.map(|()| Gone)
                },
            ),
        api("/api/keys/{team}/{name}/rotate").on(
            Method::POST,
            "rotate_key",
            "The key with another secret, which is told this once",
            |asked: Asked<KeyName, Nothing, JsonBody<Overlap>>| async move {
                let JsonBody(overlap) = asked.body;
                let rotated = asked.known.weir.rotate_key(asked.path, overlap).await;
                rotated.map(Json)
            },
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::generate::SchemaSettings;
    use std::collections::BTreeSet;

    #[test]
    fn what_a_path_captures_is_what_its_routes_read() {
        let mut generator = SchemaSettings::draft2020_12().into_generator();
        for at in all() {
            let segments = at.path.split('/').filter_map(|it| it.strip_prefix('{'));
            let captured: BTreeSet<&str> = segments.map(|it| it.trim_end_matches('}')).collect();
            for route in &at.routes {
                let parameters = route.described(&mut generator).parameters;
                let read: BTreeSet<&str> = (parameters.iter())
                    .filter(|it| it["in"] == "path")
                    .filter_map(|it| it["name"].as_str())
                    .collect();
                assert_eq!(captured, read, "{}", at.path);
            }
        }
    }

    #[test]
    fn no_path_hides_another() {
        for at in all() {
            let others = all().iter().filter(|other| other.path != at.path);
            let hiding: Vec<_> = others.filter(|it| it.captures(at.path).is_some()).collect();
            assert!(hiding.is_empty(), "{}", at.path);
        }
    }

    #[test]
    fn only_health_and_metrics_need_no_leave() {
        let open = all().iter().filter(|at| at.needs != Needs::Leave);
        let open: Vec<_> = open.map(|at| at.path).collect();
        assert_eq!(
            open,
            ["/health/live", "/healthz", "/health/ready", "/metrics"]
        );
        assert!(
            all()
                .iter()
                .all(|at| at.path.starts_with("/api/") == (at.needs == Needs::Leave))
        );
    }
}
