use super::store::{Listed, Source, State, StoreFault, Wish};
use super::*;
use crate::govern::folder::Folder;
use crate::govern::settings::{Allowance, Models, PriorityHeader};
use crate::types::Priority;
use crate::types::Secret;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use store::{Limits, Moment};

impl Folder {
    fn file(&self) -> PathBuf {
        self.0.join("keys.json")
    }
}

const HOUR: Duration = Duration::from_secs(3600);

fn models(patterns: &[&str]) -> Option<Models> {
    let patterns = patterns.iter().map(|it| (*it).to_owned()).collect();
    Some(Models::new(patterns).unwrap())
}

fn key(name: &str, credential: Credential) -> Key {
    Key {
        name: name.into(),
        credential,
        expires: None,
        models: None,
        allowance: Allowance::default(),
        priority: None,
    }
}

fn secret_key(name: &str, secret: &str) -> Key {
    key(name, Credential::Sha256(digest(secret.as_bytes())))
}

fn team(name: &str, keys: Vec<Key>) -> Arc<Team> {
    Arc::new(Team {
        name: name.into(),
        models: None,
        allowance: Allowance::default(),
        priority: Priority::Normal,
        priority_header: PriorityHeader::Lower,
        keys: keys.into_iter().map(Arc::new).collect(),
    })
}

fn keys(state: &Path, teams: &[Arc<Team>]) -> Keys {
    Keys::new(state.to_owned()).with_teams(Some(teams))
}

fn by_secret(keys: &Keys, secret: &str, now: SystemTime) -> Result<String, KeyFault> {
    let presented = Presented {
        bearer: Some(secret.as_bytes()),
        certificate: None,
    };
    known(keys.identify(presented, now))
}

fn known(found: Result<Option<Caller>, KeyFault>) -> Result<String, KeyFault> {
    let caller = found?.expect("not open");
    Ok(format!("{}/{}", caller.team.name, caller.key.name))
}

fn wish(team: &str, name: &str) -> Wish {
    Wish {
        team: team.into(),
        name: Some(name.into()),
        ..Wish::default()
    }
}

fn state_of(all: &[Listed], name: &str) -> (Source, State) {
    let found = all.iter().find(|it| it.name == name).expect(name);
    (found.source, found.state)
}

#[test]
fn without_teams_nobody_needs_a_key() {
    let keys = Keys::new("/not/there".into());
    let found = keys.identify(Presented::default(), SystemTime::now());
    assert!(matches!(found, Ok(None)));
    let closed = keys.with_teams(Some(&[]));
    let found = closed.identify(Presented::default(), SystemTime::now());
    assert_eq!(found.map(drop), Err(KeyFault::Missing));
}

#[test]
fn a_key_is_good_until_its_last_moment() {
    let now = SystemTime::now();
    let mut ends = secret_key("ends", "s-2");
    ends.expires = Some(now + HOUR);
    let keys = keys(
        "/x".as_ref(),
        &[team("a", vec![secret_key("k", "s-1"), ends])],
    );
    assert_eq!(by_secret(&keys, "s-1", now).as_deref(), Ok("a/k"));
    assert_eq!(by_secret(&keys, "s-1 ", now), Err(KeyFault::Invalid));
    let last = now + HOUR - Duration::from_nanos(1);
    assert_eq!(by_secret(&keys, "s-2", last).as_deref(), Ok("a/ends"));
    assert_eq!(by_secret(&keys, "s-2", now + HOUR), Err(KeyFault::Expired));
}

#[test]
fn a_certificate_is_a_key_by_its_uri_or_its_subject_while_it_is_valid() {
    let now = SystemTime::now();
    let certificate = |name: &str, text: &str| key(name, Credential::ClientCert(text.into()));
    let keys = keys(
        "/x".as_ref(),
        &[team(
            "a",
            vec![
                certificate("ana", "CN=ana,O=search"),
                certificate("m", "spiffe://corp/m"),
                secret_key("k", "s-1"),
            ],
        )],
    );
    let identity = |subject: &str, uris: &[&str]| Identity {
        subject: subject.into(),
        uris: uris.iter().map(|it| (*it).to_owned()).collect(),
        not_after: now + HOUR,
    };
    let ask = |bearer: Option<&str>, identity: &Identity, now| {
        let presented = Presented {
            bearer: bearer.map(str::as_bytes),
            certificate: Some(identity),
        };
        known(keys.identify(presented, now))
    };
    let ana = identity("CN=ana,O=search", &[]);
    assert_eq!(ask(None, &ana, now).as_deref(), Ok("a/ana"));
    let both = identity("CN=ana,O=search", &["spiffe://corp/x", "spiffe://corp/m"]);
    assert_eq!(ask(None, &both, now).as_deref(), Ok("a/m"));
    assert_eq!(ask(None, &ana, now + HOUR), Err(KeyFault::Expired));
    for other in ["CN=ana", "CN=ana,O=search,C=de", "cn=ana,o=search", ""] {
        assert_eq!(
            ask(None, &identity(other, &[]), now),
            Err(KeyFault::Missing),
            "{other}"
        );
    }
    // A secret counts first; one that is no key keeps nobody out.
    assert_eq!(ask(Some("s-1"), &ana, now).as_deref(), Ok("a/k"));
    assert_eq!(ask(Some("unused"), &ana, now).as_deref(), Ok("a/ana"));
    assert_eq!(
        ask(Some("unused"), &identity("", &[]), now),
        Err(KeyFault::Invalid)
    );
}

#[test]
fn team_and_key_must_both_allow_a_model_by_its_name_or_by_what_it_stands_for() {
    let caller = |of_team: Option<Models>, of_key: Option<Models>| {
        let mut key = secret_key("k", "s");
        key.models = of_key;
        let team = Team {
            name: "a".into(),
            models: of_team,
            allowance: Allowance::default(),
            priority: Priority::Normal,
            priority_header: PriorityHeader::Lower,
            keys: Vec::new(),
        };
        Caller {
            team: Arc::new(team),
            key: Arc::new(key),
        }
    };
    let free = caller(None, None);
    assert!(!free.is_restricted() && free.may_use("anything", None));
    let both = caller(
        models(&["gpt-4o*", "/v1/search*"]),
        models(&["fast", "*mini"]),
    );
    assert!(both.is_restricted());
    for (name, stands_for, may) in [
        ("gpt-4o-mini", None, true),
        ("gpt-4o", None, false),
        ("o1-mini", None, false),
        ("fast", Some("gpt-4o"), true),
        ("fast", Some("o1"), false),
        ("quick", Some("gpt-4o-mini"), true),
        ("", None, false),
        ("/v1/search/x", None, false),
    ] {
        assert_eq!(
            both.may_use(name, stands_for),
            may,
            "{name} → {stands_for:?}"
        );
    }
    let team_only = caller(models(&["a[1]*", "b?"]), None);
    assert!(team_only.may_use("a[1]/x", None) && team_only.may_use("bc", None));
    assert!(!team_only.may_use("a1", None) && !team_only.may_use("b", None));
    assert!(!team_only.may_use("x a[1]", None) && !team_only.may_use("a[1", None));
}

#[test]
fn a_key_is_made_listed_replaced_and_revoked() {
    let folder = Folder::missing("keys-life");
    let now = SystemTime::now();
    let keys = keys(&folder.0, &[team("a", vec![secret_key("written", "s-1")])]);
    let store = keys.store();
    let teams = keys.teams();
    let issued = store.create(teams, &wish("a", "ci"), now).unwrap();
    let old = issued.secret.expose();
    assert_eq!(by_secret(&keys, old, now).as_deref(), Ok("a/ci"));
    // Of the secret nothing is on the disk, and nobody else may read what is.
    let text = std::fs::read_to_string(folder.file()).unwrap();
    assert!(!text.contains(&old[5..15]), "{text}");
    let mode = std::fs::metadata(folder.file())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let all = keys.list(now).unwrap();
    assert_eq!(all.len(), 2);
    assert_eq!(state_of(&all, "ci"), (Source::Made, State::Active));
    assert_eq!(
        state_of(&all, "written"),
        (Source::Configuration, State::Active)
    );

    let next = store.rotate(teams, "a", "ci", HOUR, now).unwrap();
    let new = next.secret.expose();
    assert_eq!(by_secret(&keys, new, now).as_deref(), Ok("a/ci"));
    let last = now + HOUR - Duration::from_secs(1);
    assert_eq!(by_secret(&keys, old, last).as_deref(), Ok("a/ci"));
    assert_eq!(by_secret(&keys, old, now + HOUR), Err(KeyFault::Expired));
    assert!(keys.list(now).unwrap()[0].replaced_until.is_some());

    // Without an overlap everything that came before ends.
    let third = store.rotate(teams, "a", "ci", Duration::ZERO, now).unwrap();
    assert_eq!(by_secret(&keys, old, now), Err(KeyFault::Invalid));
    assert_eq!(by_secret(&keys, new, now), Err(KeyFault::Invalid));
    assert!(by_secret(&keys, third.secret.expose(), now).is_ok());

    store.revoke(teams, "a", "ci").unwrap();
    assert_eq!(
        by_secret(&keys, third.secret.expose(), now),
        Err(KeyFault::Invalid)
    );
    assert_eq!(keys.list(now).unwrap().len(), 1);
}

#[test]
fn what_cant_be_is_refused_and_changes_nothing() {
    let folder = Folder::missing("keys-refused");
    let now = SystemTime::now();
    let keys = keys(&folder.0, &[team("a", vec![secret_key("written", "s-1")])]);
    let (store, teams) = (keys.store(), keys.teams());
    store.create(teams, &wish("a", "ci"), now).unwrap();
    let before = std::fs::metadata(folder.file()).unwrap().ino();
    let refused = |wish: &Wish| store.create(teams, wish, now).unwrap_err();
    assert_eq!(refused(&wish("b", "x")), StoreFault::NoTeam("b".into()));
    assert_eq!(refused(&wish("a", "ci")), StoreFault::Taken("a/ci".into()));
    assert_eq!(
        refused(&wish("a", "written")),
        StoreFault::Taken("a/written".into())
    );
    for name in ["", "a/b", "a b", "é", &"x".repeat(65)] {
        assert!(
            matches!(refused(&wish("a", name)), StoreFault::Wrong(_)),
            "{name}"
        );
    }
    for wrong in [
        Wish {
            expires: Some(Moment(now)),
            ..wish("a", "x")
        },
        Wish {
            models: Some(Vec::new()),
            ..wish("a", "x")
        },
        serde_json::from_str(r#"{"team":"a","budgets":[{"usd":0,"per":"month"}]}"#).unwrap(),
        serde_json::from_str(r#"{"team":"a","budgets":[{"usd":1,"per":"day","warn":[1.0]}]}"#)
            .unwrap(),
        serde_json::from_str(
            r#"{"team":"a","budgets":[{"usd":1,"per":"day"},{"usd":2,"per":"day"}]}"#,
        )
        .unwrap(),
    ] {
        assert!(matches!(refused(&wrong), StoreFault::Wrong(_)), "{wrong:?}");
    }
    let open = store.create(None, &wish("a", "x"), now).unwrap_err();
    assert_eq!(open, StoreFault::Open);
    let none = StoreFault::NoKey("a/x".into());
    assert_eq!(store.revoke(teams, "a", "x"), Err(none.clone()));
    assert_eq!(store.rotate(teams, "a", "x", HOUR, now).unwrap_err(), none);
    let written = StoreFault::Written("a/written".into());
    assert_eq!(store.revoke(teams, "a", "written"), Err(written));
    assert_eq!(std::fs::metadata(folder.file()).unwrap().ino(), before);
}

#[test]
fn what_a_key_may_use_is_kept() {
    let folder = Folder::missing("keys-allowance");
    let now = SystemTime::now();
    let first = keys(&folder.0, &[team("a", Vec::new())]);
    let wished: Wish = serde_json::from_str(
        r#"{"team":"a","name":"k","expires":"2999-01-01T00:00:00Z","models":["gpt*"],
            "limits":{"requests_per_minute":60,"in_flight":2},
            "budgets":[{"usd":10.5,"per":"month"},{"usd":100,"per":"total","warn":[0.9,0.5]}]}"#,
    )
    .unwrap();
    let issued = first.store().create(first.teams(), &wished, now).unwrap();
    // As another process reads it.
    let other = keys(&folder.0, &[team("a", Vec::new())]);
    assert_eq!(other.store().look(), None);
    let presented = Presented {
        bearer: Some(issued.secret.expose().as_bytes()),
        certificate: None,
    };
    let caller = other.identify(presented, now).unwrap().unwrap();
    let allowance = &caller.key.allowance;
    assert_eq!(
        (allowance.requests_per_minute, allowance.in_flight),
        (60, 2)
    );
    assert_eq!(
        (allowance.tokens_per_minute, allowance.in_flight_tokens),
        (0, 0)
    );
    let budgets: Vec<_> = allowance
        .budgets
        .iter()
        .map(|it| (it.limit.to_string(), it.warn_at.clone()))
        .collect();
    assert_eq!(
        budgets,
        [
            ("10.50".into(), vec![0.8]),
            ("100.00".into(), vec![0.5, 0.9])
        ]
    );
    assert!(caller.may_use("gpt-4o", None) && !caller.may_use("o1", None));
    assert_eq!(caller.key.expires, wished.expires.map(|expires| expires.0));
    assert_eq!(other.list(now).unwrap()[0].limits, wished.limits);
    assert_eq!(
        wished.limits.tokens_per_minute,
        Limits::default().tokens_per_minute
    );
}

#[test]
fn a_key_whose_team_is_gone_or_whose_name_the_configuration_took_is_refused_and_listed() {
    let folder = Folder::missing("keys-gone");
    let now = SystemTime::now();
    let first = keys(&folder.0, &[team("a", Vec::new()), team("b", Vec::new())]);
    let make = |team: &str| {
        first
            .store()
            .create(first.teams(), &wish(team, team), now)
            .unwrap()
    };
    let (a, b) = (make("a"), make("b"));
    let next = first.with_teams(Some(&[team("b", vec![secret_key("b", "s-1")])]));
    let ask = |secret: &Secret<String>| by_secret(&next, secret.expose(), now);
    assert_eq!(ask(&a.secret), Err(KeyFault::Invalid));
    assert_eq!(ask(&b.secret), Err(KeyFault::Invalid));
    assert_eq!(by_secret(&next, "s-1", now).as_deref(), Ok("b/b"));
    let all = next.list(now).unwrap();
    assert_eq!(state_of(&all, "a"), (Source::Made, State::NoTeam));
    let states: Vec<_> = all.iter().map(|it| it.state).collect();
    assert_eq!(states, [State::NoTeam, State::Active, State::Shadowed]);
    // Revoking needs no team.
    next.store().revoke(next.teams(), "a", "a").unwrap();
    next.store().revoke(next.teams(), "b", "b").unwrap();
    assert_eq!(next.list(now).unwrap().len(), 1);
}

#[test]
fn a_damaged_file_changes_nothing_for_who_knows_the_last_good_one_and_is_never_written_over() {
    let folder = Folder::missing("keys-damaged");
    let now = SystemTime::now();
    let teams = [team("a", Vec::new())];
    let running = keys(&folder.0, &teams);
    let issued = running
        .store()
        .create(running.teams(), &wish("a", "k"), now)
        .unwrap();
    let secret = issued.secret.expose();
    let good = std::fs::read_to_string(folder.file()).unwrap();
    for damaged in [
        String::new(),
        "{".into(),
        "[]".into(),
        "\0\0\0\0".into(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"version\": 1", "\"version\": 2"),
        good.replace("\"sha256\": \"", "\"sha256\": \"x"),
    ] {
        std::fs::write(folder.file(), &damaged).unwrap();
        let why = running.store().look().expect("a fault");
        assert!(why.contains("keys.json") && !why.contains(secret), "{why}");
        assert_eq!(running.store().look(), Some(why), "it is still damaged");
        assert!(by_secret(&running, secret, now).is_ok(), "{damaged}");
        let fresh = keys(&folder.0, &teams);
        assert!(fresh.store().look().is_some());
        assert_eq!(by_secret(&fresh, secret, now), Err(KeyFault::Invalid));
        let made = running
            .store()
            .create(running.teams(), &wish("a", "x"), now);
        assert!(matches!(made, Err(StoreFault::File(_))), "{made:?}");
        assert!(running.store().revoke(running.teams(), "a", "k").is_err());
        assert!(running.list(now).is_err());
        assert_eq!(std::fs::read_to_string(folder.file()).unwrap(), damaged);
    }
    // What a later version adds doesn't matter.
    let added = good.replacen("\"team\":", "\"later\": {\"x\": 1}, \"team\":", 1);
    std::fs::write(folder.file(), added).unwrap();
    assert_eq!(running.store().look(), None);
    assert!(by_secret(&running, secret, now).is_ok());
    // Taken away, it takes its keys with it; with its folder it is only out of reach.
    let aside = Folder::missing("keys-damaged-aside");
    std::fs::rename(&folder.0, &aside.0).unwrap();
    assert!(running.store().look().is_some());
    assert!(by_secret(&running, secret, now).is_ok());
    std::fs::rename(&aside.0, &folder.0).unwrap();
    std::fs::remove_file(folder.file()).unwrap();
    assert_eq!(running.store().look(), None);
    assert_eq!(by_secret(&running, secret, now), Err(KeyFault::Invalid));
}

#[test]
fn a_link_in_the_place_of_the_lock_or_of_the_file_leads_nowhere() {
    let folder = Folder::missing("keys-links");
    let now = SystemTime::now();
    let keys = keys(&folder.0, &[team("a", Vec::new())]);
    std::fs::create_dir_all(&folder.0).unwrap();
    let elsewhere = folder.0.join("elsewhere");
    std::fs::write(&elsewhere, "precious").unwrap();
    let make = |name| keys.store().create(keys.teams(), &wish("a", name), now);
    std::os::unix::fs::symlink(&elsewhere, folder.0.join("keys.lock")).unwrap();
    assert!(matches!(make("k"), Err(StoreFault::File(_))));
    std::fs::remove_file(folder.0.join("keys.lock")).unwrap();
    std::os::unix::fs::symlink(&elsewhere, folder.0.join(".keys.json.new")).unwrap();
    make("k").unwrap();
    assert_eq!(std::fs::read_to_string(&elsewhere).unwrap(), "precious");
    assert_eq!(keys.list(now).unwrap().len(), 1);
}

#[test]
fn who_changes_keys_at_the_same_time_loses_nothing() {
    const THREADS: usize = 4;
    const EACH: usize = 5;
    let folder = Folder::missing("keys-race");
    let now = SystemTime::now();
    // Each thread as a process of its own: locks of one open file don't exclude each other.
    let make = |thread: usize| {
        let keys = keys(&folder.0, &[team("a", Vec::new())]);
        for number in 0..EACH {
            let wish = wish("a", &format!("k-{thread}-{number}"));
            keys.store().create(keys.teams(), &wish, now).unwrap();
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || make(thread));
        }
    });
    let keys = keys(&folder.0, &[team("a", Vec::new())]);
    assert_eq!(keys.list(now).unwrap().len(), THREADS * EACH);
}

#[test]
fn a_client_that_fails_again_and_again_is_told_to_wait() {
    let keys = Keys::new("/x".into());
    let now = super::super::rate::Moment::now();
    let client = Some(IpAddr::from([192, 0, 2, 1]));
    for _ in 0..FAULTS.burst {
        assert_eq!(keys.failed(client, now), Ok(()));
    }
    let wait = keys.failed(client, now).unwrap_err();
    assert_eq!(keys.failed(client, now.plus(wait)), Ok(()));
    assert!(keys.failed(client, now.plus(wait)).is_err());
    assert_eq!(keys.failed(Some(IpAddr::from([192, 0, 2, 2])), now), Ok(()));
    // A configuration that is loaded meanwhile forgives nothing.
    assert!(
        keys.with_teams(Some(&[]))
            .failed(client, now.plus(wait))
            .is_err()
    );
}
