//! Keys whose meaning isn't built yet: read for their form, then answered. A value that turns a
//! thing off is as good as none.

use super::Check;
use crate::config::file::File;
use crate::config::path::Path;

/// Notes every key that is used and isn't built.
pub(super) fn report(file: &File, check: &mut Check<'_>) {
    let logging = file.logging.as_ref();
    let tracing = file.tracing.as_ref();
    let otlp = tracing.and_then(|tracing| tracing.otlp_endpoint.as_ref());
    for (used, keys) in [
        (
            logging
                .and_then(|logging| logging.bodies)
                .is_some_and(|bodies| bodies.0),
            &["logging", "bodies"],
        ),
        (
            otlp.is_some_and(|url| !url.0.is_empty()),
            &["tracing", "otlp_endpoint"],
        ),
    ] {
        if used {
            let path = keys.iter().fold(Path::root(), |path, key| path.key(key));
            check.findings.not_built(&path, keys.join("."));
        }
    }
}
