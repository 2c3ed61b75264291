//! TLS for clients: who is shown which certificate, when it is renewed, and who may come in.

use crate::support::tls_client::{Settings, TlsClient};
use crate::support::{Authority, Gateway, Launch, Provider, eventually, get};
use std::path::Path;

const NOT_FOUND: &str = r#""code":"no_route""#;

/// The DER of a PEM file.
fn der(path: &Path) -> Vec<u8> {
    use rustls::pki_types::pem::PemObject;
    let certificate = rustls::pki_types::CertificateDer::from_pem_file(path);
    certificate.expect("a certificate").to_vec()
}

/// One TLS listener with these certificates, and more of its keys.
fn listener(certificates: &[&(std::path::PathBuf, std::path::PathBuf)], more: &str) -> String {
    let all: Vec<String> = certificates
        .iter()
        .map(|(cert, key)| format!("{{cert: {cert:?}, key: {key:?}}}"))
        .collect();
    format!(
        "listen: [{{address: \"127.0.0.1:0\", tls: {{certificates: [{}]{more}}}}}]\n",
        all.join(", ")
    )
}

#[test]
fn a_name_is_answered_with_its_certificate_and_an_unknown_one_with_the_first() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:one.test,DNS:a.test", 1);
    let wild = authority.issue("wild", "/CN=wild", "DNS:*.wild.test", 1);
    let weir = Gateway::start(&listener(&[&one, &wild], ""));
    let config = Settings::new(&authority).config();
    for (name, expected) in [
        ("one.test", &one.0),
        ("b.wild.test", &wild.0),
        ("a.test", &one.0),
    ] {
        let client = TlsClient::connect(&config, weir.address(), name).expect(name);
        assert_eq!(client.certificate(), der(expected), "{name}");
    }
    // The default's names don't cover it, so a client that verifies says no.
    let error = TlsClient::connect(&config, weir.address(), "c.b.wild.test").err();
    assert!(error.is_some_and(|error| error.to_string().contains("name")));
}

#[test]
fn the_key_exchange_is_post_quantum_and_both_versions_of_http_are_offered() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let weir = Gateway::start(&listener(&[&one], ""));
    for protocol in ["h2", "http/1.1"] {
        let settings = Settings {
            protocols: &[protocol],
            ..Settings::new(&authority)
        };
        let client = TlsClient::connect(&settings.config(), weir.address(), "a.test").unwrap();
        assert_eq!(client.protocol().as_deref(), Some(protocol));
        assert_eq!(client.group(), "X25519MLKEM768");
    }
    let unknown = Settings {
        protocols: &["smtp"],
        ..Settings::new(&authority)
    };
    assert!(TlsClient::connect(&unknown.config(), weir.address(), "a.test").is_err());
}

#[test]
fn a_returning_client_resumes_its_session() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let weir = Gateway::start(&listener(&[&one], ""));
    for versions in [&[&rustls::version::TLS12][..], &[&rustls::version::TLS13]] {
        let config = Settings {
            versions,
            ..Settings::new(&authority)
        }
        .config();
        let mut first = TlsClient::connect(&config, weir.address(), "a.test").unwrap();
        assert!(!first.resumed());
        assert!(first.get("/").unwrap().contains(NOT_FOUND));
        let second = TlsClient::connect(&config, weir.address(), "a.test").unwrap();
        assert!(second.resumed(), "{versions:?}");
    }
}

#[test]
fn an_old_version_is_refused_where_the_operator_wants_a_newer_one() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let weir = Gateway::start(&listener(&[&one], ", min_version: \"1.3\""));
    let old = Settings {
        versions: &[&rustls::version::TLS12],
        ..Settings::new(&authority)
    };
    assert!(TlsClient::connect(&old.config(), weir.address(), "a.test").is_err());
    let new = Settings::new(&authority).config();
    assert!(TlsClient::connect(&new, weir.address(), "a.test").is_ok());
}

#[test]
fn plaintext_on_a_tls_port_is_told_so() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let weir = Gateway::start(&listener(&[&one], ""));
    let answer = get(weir.address(), "/v1/models");
    assert_eq!(answer.status(), 400);
    assert!(answer.text().contains("https://"), "{}", answer.text());
    let refused = || {
        weir.value(
            "weir_connections_refused_total",
            &[("reason", "plaintext_on_tls")],
        )
    };
    eventually("the refusal is counted", || {
        (refused() == Some(1.0)).then_some(())
    });
}

#[test]
fn answers_over_tls_ask_for_tls_from_then_on() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let both = listener(&[&one], "").replace("}]\n", "}, \"127.0.0.1:0\"]\n");
    let weir = Gateway::start(&both);
    let config = Settings::new(&authority).config();
    let mut client = TlsClient::connect(&config, weir.addresses()[0], "a.test").unwrap();
    let answer = client.get("/nothing").unwrap();
    assert!(
        answer.contains("strict-transport-security: max-age=31536000"),
        "{answer}"
    );
    assert!(
        answer.contains("x-content-type-options: nosniff"),
        "{answer}"
    );
    let plain = get(weir.addresses()[1], "/nothing");
    assert_eq!(plain.header("strict-transport-security"), None);
}

#[test]
fn a_renewed_certificate_is_shown_without_a_restart_and_a_bad_one_is_not() {
    let authority = Authority::new();
    let served = authority.issue("served", "/CN=served", "DNS:a.test", 5);
    let weir = Gateway::start(&listener(&[&served], ""));
    let config = Settings::new(&authority).config();
    let shown = || {
        let client = TlsClient::connect(&config, weir.address(), "a.test").expect("a handshake");
        (!client.resumed()).then(|| client.certificate())
    };
    let days = || weir.value("weir_certificate_expires_days", &[("name", "a.test")]);
    assert_eq!(shown(), Some(der(&served.0)));
    assert!(days().is_some_and(|days| days > 4.9 && days <= 5.0));

    let renewed = authority.issue("renewed", "/CN=served", "DNS:a.test", 9);
    std::fs::copy(&renewed.1, &served.1).unwrap();
    std::fs::copy(&renewed.0, &served.0).unwrap();
    eventually("the renewed certificate is shown", || {
        (shown() == Some(der(&renewed.0))).then_some(())
    });
    eventually("its days are told", || {
        days().filter(|days| *days > 8.9).map(|_| ())
    });

    std::fs::write(&served.0, "not a certificate").unwrap();
    weir.wait_log("renewed certificates refused");
    assert_eq!(shown(), Some(der(&renewed.0)));
}

#[test]
fn who_a_client_is_by_its_certificate_reaches_the_upstream_and_the_log() {
    let authority = Authority::new();
    let strangers = Authority::new();
    let server = authority.issue("server", "/CN=server", "DNS:a.test", 1);
    let ana = authority.issue("ana", "/O=search/CN=ana", "DNS:ana.test", 1);
    let machine = authority.issue("machine", "/CN=m", "URI:spiffe://corp/m", 1);
    let stranger = strangers.issue("stranger", "/CN=ana", "DNS:ana.test", 1);
    let provider = Provider::json("{}");
    let ca = authority.ca();
    for (mode, without) in [("optional", true), ("required", false)] {
        let weir = Gateway::start(&format!(
            "{}target_map: {{/x: \"{}\"}}\n\
             headers: {{request: {{set: {{X-Client: \"{{client_cert}}\"}}}}}}\n",
            listener(
                &[&server],
                &format!(", client_ca: {ca:?}, client_auth: {mode}")
            ),
            provider.url()
        ));
        let ask = |certificate: Option<&(std::path::PathBuf, std::path::PathBuf)>| {
            let settings = Settings {
                certificate: certificate.cloned(),
                ..Settings::new(&authority)
            };
            let mut client = TlsClient::connect(&settings.config(), weir.address(), "a.test")?;
            client.get("/x")
        };
        assert!(ask(Some(&ana)).unwrap().starts_with("HTTP/1.1 200"));
        assert!(ask(Some(&machine)).unwrap().starts_with("HTTP/1.1 200"));
        let records = weir.records(2);
        assert_eq!(records[0]["client_cert"], "CN=ana,O=search");
        assert_eq!(records[1]["client_cert"], "spiffe://corp/m");
        let told: Vec<_> = provider
            .requests()
            .iter()
            .rev()
            .take(2)
            .rev()
            .map(|it| it.header("x-client").map(str::to_owned))
            .collect();
        assert_eq!(
            told,
            [
                Some("CN=ana,O=search".into()),
                Some("spiffe://corp/m".into())
            ]
        );
        assert!(ask(Some(&stranger)).is_err(), "{mode}");
        assert_eq!(ask(None).is_ok(), without, "{mode}");
    }
}

#[test]
fn check_names_every_certificate_that_cant_be_used() {
    let authority = Authority::new();
    let one = authority.issue("one", "/CN=one", "DNS:a.test", 1);
    let other = authority.issue("other", "/CN=other", "DNS:b.test", 1);
    let past = authority.issue("past", "/CN=past", "DNS:c.test", -1);
    let mixed = (one.0.clone(), other.1.clone());
    let launch = Launch::verb(&["check", "-c"]);
    let text = listener(&[&one, &mixed, &past], "");
    let path = launch.folder().write("weir.yaml", text);
    let output = launch.arg(path).output();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(said.contains("is not the key of the certificate"), "{said}");
    assert!(
        said.contains("past.pem") && said.contains("expired"),
        "{said}"
    );
}
