//! The walls of the house: who may know whom. Held by reading the source.
//!
//! `main → cli → app → everything`, `proxy → snapshot, rooms, types`, `admin → snapshot, config,
//! observe`, `snapshot → rooms`, `config → <room>::settings`, rooms → `types`, `observe`; and no room
//! knows another, but for the two arrows that are named in [`ROOMS`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Capabilities that must not know each other, and what each may know besides `types` and `observe`.
const ROOMS: &[(&str, &[&str])] = &[
    ("egress", &["weir_dns"]),
    ("govern", &[]),
    ("listen", &[]),
    ("observe", &[]),
    ("route", &[]),
    ("tokens", &["dialect"]),
    // What a provider speaks is a plain value of the crate's.
    ("upstream", &["dialect"]),
];

/// Rooms that are crates of their own, which know nobody here.
const CRATES: &[&str] = &["dialect"];

/// Everyone else, and whom each may know besides `types`. A path such as `proxy::settings` allows only
/// what is in it; `rooms` stands for all of [`ROOMS`], `*::settings` for the settings of whoever has some.
const HALLS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &[]),
    ("types", &[]),
    (
        "cli",
        // The demo's model server is a small server of its own: it listens, reads and counts.
        &[
            "app",
            "config",
            "snapshot",
            "route",
            // What the ledger says, which `app` asked for.
            "govern::ledger",
            "proxy::model_in_path",
            "proxy::Surface",
            "dialect",
            "tokens",
            "listen",
            // `run`, `reload` and the like speak with the supervisor, or are it.
            "supervise",
        ],
    ),
    (
        "app",
        &[
            "admin",
            "config",
            "proxy",
            "snapshot",
            "supervise",
            "rooms",
            "weir_dns",
        ],
    ),
    // It parses no HTTP, no TLS and no routes, so that nothing in them can bring it down.
    ("supervise", &[]),
    // The settings of the road hold those of the resolver as they are.
    ("config", &["*::settings", "weir_dns", "dialect"]),
    ("snapshot", &["rooms", "proxy::settings"]),
    ("admin", &["snapshot", "config", "observe"]),
    ("proxy", &["snapshot", "rooms"]),
];

/// Files whose logic is longer than [`LINES_MAX`], each with its reason.
const LONG: &[&str] = &[
    // A table: every key of the configuration with its meaning.
    "config/file.rs",
];

/// Lines before a file's tests, and a few to spare.
const LINES_MAX: usize = 700;

struct Source {
    /// Below `src`.
    path: PathBuf,
    text: String,
}

impl Source {
    /// The first part of its path: `proxy` for `proxy/plan.rs`, `app` for `app.rs`.
    fn room(&self) -> String {
        let first = self.path.iter().next().expect("a path").to_string_lossy();
        first.trim_end_matches(".rs").to_owned()
    }

    /// The paths in other parts of the house that it names, with their lines.
    fn arrows(&self) -> Vec<(usize, String)> {
        let code: String = self.text.lines().fold(String::new(), |code, line| {
            // Lines stay where they are; comments may name whom they like.
            let line = if line.trim_start().starts_with("//") {
                ""
            } else {
                line
            };
            code + line + "\n"
        });
        let mut arrows = Vec::new();
        for start in ["crate::", "weir::", "weir_dns::"] {
            for (at, _) in code.match_indices(start) {
                // `$crate::` and `pingora_weir::` are no paths of ours.
                let part_of_another =
                    |c: char| c == '$' || c == ':' || c == '_' || c.is_alphanumeric();
                if code[..at].chars().next_back().is_some_and(part_of_another) {
                    continue;
                }
                let line = code[..at].lines().count().max(1);
                if start == "weir_dns::" {
                    arrows.push((line, "weir_dns".to_owned()));
                } else {
                    let paths = paths_of(&code[at + start.len()..]);
                    arrows.extend(paths.into_iter().map(|path| (line, path)));
                }
            }
        }
        let room = self.room();
        arrows.retain(|(_, path)| path.split("::").next() != Some(&*room));
        arrows
    }
}

/// The path that a text begins with, or all those of the group `{…}` that it begins with.
fn paths_of(text: &str) -> Vec<String> {
    let Some(group) = text.strip_prefix('{') else {
        let end = text.find(|c: char| c != '_' && c != ':' && !c.is_alphanumeric());
        return vec![
            text[..end.unwrap_or(text.len())]
                .trim_end_matches(':')
                .to_owned(),
        ];
    };
    let mut paths = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                let item = group[start..at].trim();
                if !item.is_empty() {
                    paths.extend(paths_of(item));
                }
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    paths
}

fn sources() -> Vec<Source> {
    fn collect(folder: &Path, root: &Path, into: &mut Vec<Source>) {
        for entry in std::fs::read_dir(folder).expect("a folder of the source") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                collect(&path, root, into);
            } else if path.extension().is_some_and(|it| it == "rs") {
                into.push(Source {
                    text: std::fs::read_to_string(&path).expect("a source file"),
                    path: path.strip_prefix(root).expect("below src").to_owned(),
                });
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut sources = Vec::new();
    collect(&root, &root, &mut sources);
    assert!(sources.len() > 50, "the source wasn't found");
    sources
}

fn is_room(name: &str) -> bool {
    CRATES.contains(&name) || ROOMS.iter().any(|(room, _)| *room == name)
}

fn may(room: &str, path: &str) -> bool {
    let first = path.split("::").next().unwrap_or_default();
    if first == "types" {
        return room != "main" && room != "lib";
    }
    if let Some((_, more)) = ROOMS.iter().find(|(name, _)| *name == room) {
        return first == "observe" || more.contains(&first);
    }
    let Some((_, allowed)) = HALLS.iter().find(|(name, _)| *name == room) else {
        return false;
    };
    allowed.iter().any(|allowed| match *allowed {
        "rooms" => is_room(first),
        "*::settings" => path.split("::").skip(1).any(|part| part == "settings"),
        allowed => path == allowed || path.starts_with(&format!("{allowed}::")),
    })
}

#[test]
fn arrows_go_only_where_the_house_has_doors() {
    let mut broken = Vec::new();
    for source in sources() {
        for (line, path) in source.arrows() {
            if !may(&source.room(), &path) {
                broken.push(format!("src/{}:{line}: {path}", source.path.display()));
            }
        }
    }
    assert!(
        broken.is_empty(),
        "through the wall:\n{}",
        broken.join("\n")
    );
}

#[test]
fn every_part_of_the_house_is_in_its_plan() {
    let known: BTreeSet<_> = ROOMS
        .iter()
        .chain(HALLS)
        .map(|(name, _)| (*name).to_owned())
        .collect();
    let there: BTreeSet<_> = sources().iter().map(Source::room).collect();
    assert_eq!(there, known);
}

#[test]
fn no_arrow_leads_back() {
    let mut arrows: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources() {
        for (_, path) in source.arrows() {
            // Settings are plain values: whoever fills them in knows nothing of the room.
            let parts: Vec<_> = path.split("::").collect();
            if !parts[1..].contains(&"settings") {
                arrows
                    .entry(source.room())
                    .or_default()
                    .insert(parts[0].to_owned());
            }
        }
    }
    // Whoever only leads to what is gone goes; what stays leads round in a circle.
    loop {
        let left: BTreeSet<_> = arrows.keys().cloned().collect();
        arrows
            .values_mut()
            .for_each(|to| to.retain(|it| left.contains(it)));
        arrows.retain(|_, to| !to.is_empty());
        if arrows.len() == left.len() {
            break;
        }
    }
    assert!(arrows.is_empty(), "arrows in a circle: {arrows:?}");
}

#[test]
fn the_plan_itself_refuses_what_it_should() {
    for (room, path) in [
        ("route", "upstream::Upstreams"),
        ("tokens", "govern"),
        ("dialect", "tokens::meter"),
        ("config", "proxy::Proxy"),
        ("config", "route"),
        ("proxy", "config::Settings"),
        ("proxy", "app"),
        ("admin", "proxy"),
        ("snapshot", "proxy::journey"),
        ("upstream", "weir_dns"),
        ("cli", "proxy"),
        ("types", "observe"),
        ("main", "app"),
        ("supervise", "config"),
        ("supervise", "listen"),
        ("proxy", "supervise"),
    ] {
        assert!(!may(room, path), "{room} may know {path}");
    }
    for (room, path) in [
        ("tokens", "dialect::json"),
        ("egress", "weir_dns"),
        ("config", "proxy::settings::Timeouts"),
        ("proxy", "govern::Grant"),
        ("route", "types::ModelName"),
        ("cli", "proxy::model_in_path"),
    ] {
        assert!(may(room, path), "{room} may not know {path}");
    }
}

#[test]
fn paths_are_read_wherever_they_stand() {
    let source = |text: &str| Source {
        path: "route/join.rs".into(),
        text: text.to_owned(),
    };
    let arrows = |text| source(text).arrows();
    let one = |line, path: &str| (line, path.to_owned());
    assert_eq!(
        arrows("// crate::proxy\nuse crate::types::X;\n"),
        [one(2, "types::X")]
    );
    assert_eq!(
        arrows("use crate::route::model; fn f(a: $crate::app::B)"),
        []
    );
    assert_eq!(
        arrows("use crate::{\n    egress::{self, Tls},\n    route::join,\n    app,\n};"),
        [one(1, "egress"), one(1, "app")]
    );
    assert_eq!(
        arrows("\nfn f() { weir_dns::Resolver::new() }"),
        [one(2, "weir_dns")]
    );
}

#[test]
fn no_file_holds_more_logic_than_a_head_does() {
    let mut long = Vec::new();
    for source in sources() {
        let name = source.path.display().to_string();
        if name.ends_with("tests.rs") {
            continue;
        }
        let logic = source
            .text
            .find("#[cfg(test)]\nmod tests {")
            .unwrap_or(source.text.len());
        let lines = source.text[..logic].lines().count();
        let excused = LONG.contains(&&*name);
        if (lines > LINES_MAX) != excused {
            long.push(format!("src/{name}: {lines} lines (excused: {excused})"));
        }
    }
    assert!(
        long.is_empty(),
        "more than {LINES_MAX} lines, or excused for nothing:\n{}",
        long.join("\n")
    );
}

#[test]
fn every_file_says_what_it_is() {
    let silent: Vec<_> = sources()
        .into_iter()
        .filter(|source| !source.path.ends_with("tests.rs"))
        .filter(|source| !source.text.starts_with("//! "))
        .map(|source| source.path)
        .collect();
    assert!(silent.is_empty(), "without a first sentence: {silent:?}");
}

#[test]
fn a_journey_has_six_fields_for_good() {
    let sources = sources();
    let source = sources
        .iter()
        .find(|it| it.path == Path::new("proxy/journey.rs"));
    let text = &source.expect("src/proxy/journey.rs").text;
    let (_, fields) = text
        .split_once("pub struct Journey {\n")
        .expect("struct Journey");
    let (fields, _) = fields.split_once("\n}").expect("its end");
    let fields: Vec<_> = fields
        .lines()
        .map(str::trim_start)
        .filter(|line| !line.starts_with("//") && !line.starts_with('#') && line.contains(':'))
        .collect();
    assert_eq!(fields.len(), 6, "{fields:#?}");
}

#[test]
fn main_only_reads_the_command_line() {
    let sources = sources();
    let main = sources
        .iter()
        .find(|it| it.path == Path::new("main.rs"))
        .expect("src/main.rs");
    assert!(main.text.lines().count() <= 60);
}
