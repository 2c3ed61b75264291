//! weir under a real systemd: reloads, upgrades, crashes, stops and the Debian package, with clients
//! that look on. `tests/systemd/boot` plays it in a container; where none can be had it says why, and
//! so does this test.

use std::path::Path;
use std::process::Command;

/// The status with which the script says that it was skipped.
const SKIPPED: i32 = 77;

#[track_caller]
fn plays(part: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/systemd/boot");
    let output = Command::new(script)
        .arg(env!("CARGO_BIN_EXE_weir"))
        .arg(part)
        .output()
        .expect("tests/systemd/boot can be started: it needs python3");
    let told = String::from_utf8_lossy(&output.stdout);
    print!("{told}");
    if output.status.code() == Some(SKIPPED) {
        eprintln!("{part}: {}", told.trim());
        return;
    }
    assert!(
        output.status.success(),
        "{part}: {}\n{told}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn no_client_notices_a_reload_or_an_upgrade_and_bad_ones_change_nothing() {
    plays("upgrades");
}

#[test]
fn killed_processes_are_replaced_while_the_others_serve_on() {
    plays("crashes");
}

#[test]
fn a_stop_drains_and_leaves_nothing_behind() {
    plays("stopping");
}

#[test]
fn the_package_installs_upgrades_and_goes() {
    plays("package");
}
