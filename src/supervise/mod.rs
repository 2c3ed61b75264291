//! The process that systemd sees: it holds the listening sockets and starts generations, which do the
//! work. It never reads the configuration, and knows nothing of HTTP, TLS or routes; what it must know
//! the program on disk tells it. The command line calls [`run`]; a generation holds a [`worker`].

pub mod control;
mod generation;
mod job;
mod lines;
mod link;
mod notify;
mod program;
pub mod protocol;
mod question;
mod renew;
mod run;
pub mod settings;
pub mod sockets;
mod succeed;
mod supervisor;
mod table;
pub mod worker;

pub use run::run;
