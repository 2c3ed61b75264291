//! The reference worker of dialect `grpc` (`grpc_worker.py`), as a process of one test.

use super::daemon::Daemon;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

/// A running worker.
pub struct Worker {
    daemon: Daemon,
}

impl Worker {
    /// Starts one; `None`, and a word on standard error, where `WEIR_TEST_PYTHON` has no grpcio.
    pub fn start() -> Option<Self> {
        let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let needed = "import grpc, grpc_tools.protoc, grpc_health.v1.health";
        let has = Command::new(&python).args(["-c", needed]).output();
        if !has.is_ok_and(|it| it.status.success()) {
            eprintln!(
                "skipped: {python} has no grpcio (pip install grpcio grpcio-tools \
                 grpcio-health-checking; see tests/run)"
            );
            return None;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let script = root.join("tests/support/grpc_worker.py");
        let proto = root.join("proto/llm_service.proto");
        let daemon = Daemon::start("grpc_worker", python.into(), |plan| {
            [
                script.display().to_string(),
                proto.display().to_string(),
                plan.address.to_string(),
            ]
            .to_vec()
        });
        Some(Self { daemon })
    }

    /// Ends it: its connections break.
    pub fn kill(&mut self) {
        self.daemon.kill();
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.daemon.address()
    }

    /// What it is in the configuration.
    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Waits until it says this.
    #[track_caller]
    pub fn wait_said(&self, text: &str) {
        self.daemon.wait_output(text);
    }
}
