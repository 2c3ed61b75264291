//! CPU time and memory of a process and all its descendants, read from `/proc`. The generator asks
//! for them at the edges of its measured window.

use std::{fs, io, time::Duration};

/// What a process tree has used until now.
pub struct Sample {
    /// User and system time of living processes and of children that were waited for.
    pub cpu: Duration,
    /// Resident memory; pages shared inside the tree count once for each process.
    pub rss_kib: u64,
    /// Resident memory with shared pages divided among those that share them.
    pub pss_kib: u64,
}

/// Samples the tree below `root`. Processes that end meanwhile are left out.
pub fn sample(root: u32) -> io::Result<Sample> {
    let mut tree = vec![root];
    let all = processes()?;
    let mut seen = 0;
    while let Some(&parent) = tree.get(seen) {
        tree.extend(
            all.iter()
                .filter(|stat| stat.parent == parent)
                .map(|stat| stat.pid),
        );
        seen += 1;
    }
    let members = all.iter().filter(|stat| tree.contains(&stat.pid));
    // SAFETY: asks for a constant.
    let ticks_per_second = unsafe { libc::sysconf(libc::_SC_CLK_TCK) } as f64;
    let ticks: u64 = members.map(|stat| stat.cpu_ticks).sum();
    let memory = |field| tree.iter().map(|pid| rollup_kib(*pid, field)).sum();
    Ok(Sample {
        cpu: Duration::from_secs_f64(ticks as f64 / ticks_per_second),
        rss_kib: memory("Rss:"),
        pss_kib: memory("Pss:"),
    })
}

struct Stat {
    pid: u32,
    parent: u32,
    cpu_ticks: u64,
}

fn processes() -> io::Result<Vec<Stat>> {
    let entries = fs::read_dir("/proc")?.flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    Ok(pids.filter_map(stat).collect())
}

fn stat(pid: u32) -> Option<Stat> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may hold anything; what follows the last one is numbers. See proc(5):
    // state is field 3, ppid 4, utime 14, stime 15, cutime 16, cstime 17.
    let (_, after_name) = text.rsplit_once(") ")?;
    let fields: Vec<_> = after_name.split(' ').collect();
    let number = |field: usize| fields.get(field - 3)?.parse::<u64>().ok();
    let cpu_ticks = number(14)? + number(15)? + number(16)? + number(17)?;
    Some(Stat {
        pid,
        parent: number(4)? as u32,
        cpu_ticks,
    })
}

fn rollup_kib(pid: u32, field: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_tree_holds_its_children() {
        let before = super::sample(std::process::id()).expect("own /proc");
        let mut child = std::process::Command::new("sleep")
            .arg("5")
            .spawn()
            .expect("sleep");
        let with_child = super::sample(std::process::id()).expect("own /proc");
        child.kill().expect("still there");
        child.wait().expect("a child");
        assert!(before.rss_kib > 0 && before.pss_kib > 0);
        assert!(
            with_child.rss_kib > before.rss_kib,
            "the child's pages are counted"
        );
    }
}
