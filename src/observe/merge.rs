//! Metrics of several processes as those of one: what `/metrics` answers while older generations
//! finish what they carry.
//!
//! Works on Prometheus' text format, so that two versions need no other language. Counters and
//! histograms are summed over the living and the dead, so they never fall; gauges of amounts are
//! summed over the living; of other gauges the first text's value counts.

use super::names;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Gauges that are amounts: of several processes the sum is true.
const SUMMED_GAUGES: &[&str] = &[
    names::IN_FLIGHT,
    names::QUEUE_DEPTH,
    names::UPSTREAM_QUEUE_DEPTH,
    names::UPSTREAM_IN_FLIGHT,
    names::BUFFERED_BYTES,
    names::CONNECTIONS,
    names::STREAMS,
    names::DRAINS,
    names::LEDGER_WAITING,
    names::LEDGER_UNCARRIED,
    names::LEDGER_LAG,
];

/// Sums `living`, the leading process first, and the counters of `dead`.
pub fn merged(living: &[&str], dead: &[&str]) -> String {
    let mut all = Families::default();
    for (number, text) in living.iter().enumerate() {
        all.add(text, |kind, family| {
            let leads = number == 0;
            leads || is_total(kind) || SUMMED_GAUGES.contains(&family)
        });
    }
    for text in dead {
        all.add(text, |kind, _| is_total(kind));
    }
    all.written()
}

/// Counters alone: what remains of processes that ended.
pub fn totals(texts: &[&str]) -> String {
    merged(&[], texts)
}

fn is_total(kind: &str) -> bool {
    matches!(kind, "counter" | "histogram")
}

/// Families in the order in which they were first seen.
#[derive(Default)]
struct Families<'t> {
    order: Vec<&'t str>,
    known: BTreeMap<&'t str, Family<'t>>,
}

struct Family<'t> {
    kind: &'t str,
    /// `# HELP` and `# TYPE`.
    head: String,
    /// By name and labels, in order of appearance.
    samples: Vec<(&'t str, Amount)>,
    places: BTreeMap<&'t str, usize>,
}

/// A sum of samples.
#[derive(Clone, Copy)]
enum Amount {
    Plain(f64),
    /// Billionths, of a histogram's sum. Added as they are written, such sums would depend on their
    /// order in the last place, and a counter that falls by so little is taken for one that began anew.
    Billionths(i128),
}

impl Amount {
    fn of(family: &str, kind: &str, key: &str, value: f64) -> Self {
        let name = key.split('{').next().unwrap_or(key);
        let is_sum = kind == "histogram" && name.strip_prefix(family) == Some("_sum");
        if is_sum && value.is_finite() {
            #[expect(
                clippy::cast_possible_truncation,
                reason = "rounded before, and it saturates"
            )]
            Self::Billionths((value * 1e9).round() as i128)
        } else {
            Self::Plain(value)
        }
    }

    fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Billionths(a), Self::Billionths(b)) => Self::Billionths(a.saturating_add(b)),
            (a, b) => Self::Plain(a.value() + b.value()),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "as precise as any sample")]
    fn value(self) -> f64 {
        match self {
            Self::Plain(value) => value,
            Self::Billionths(count) => count as f64 / 1e9,
        }
    }
}

impl<'t> Families<'t> {
    fn add(&mut self, text: &'t str, wanted: impl Fn(&str, &str) -> bool) {
        let mut help = None;
        let mut current = None;
        for line in text.lines() {
            if line.starts_with("# HELP ") {
                help = Some(line);
                current = None;
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, kind) = rest.split_once(' ').unwrap_or((rest, ""));
                current = wanted(kind, name).then_some(name);
                if current.is_some() && !self.known.contains_key(name) {
                    let head = help.map_or(String::new(), |help| format!("{help}\n"));
                    self.order.push(name);
                    self.known.insert(
                        name,
                        Family {
                            kind,
                            head: format!("{head}{line}\n"),
                            samples: Vec::new(),
                            places: BTreeMap::new(),
                        },
                    );
                }
                help = None;
            } else if let Some(name) = current
                && let Some(family) = self.known.get_mut(name)
                && let Some((key, value)) = line.rsplit_once(' ')
                && let Ok(value) = value.parse::<f64>()
            {
                let value = Amount::of(name, family.kind, key, value);
                match family.places.get(key) {
                    Some(place) => {
                        let sum = &mut family.samples[*place].1;
                        *sum = sum.plus(value);
                    }
                    None => {
                        family.places.insert(key, family.samples.len());
                        family.samples.push((key, value));
                    }
                }
            }
        }
    }

    fn written(&self) -> String {
        let mut text = String::new();
        for family in self.order.iter().filter_map(|name| self.known.get(name)) {
            if family.samples.is_empty() {
                continue;
            }
            text.push_str(&family.head);
            for (key, value) in &family.samples {
                // Writing to a String can't fail.
                let _ = writeln!(text, "{key} {}", value.value());
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NEW: &str = "# HELP llm_requests_total Requests.\n# TYPE llm_requests_total counter\n\
        llm_requests_total{model=\"a b\",status=\"200\"} 3\n\
        # HELP weir_in_flight Requests in flight.\n# TYPE weir_in_flight gauge\nweir_in_flight 2\n\
        # HELP weir_build_info x\n# TYPE weir_build_info gauge\nweir_build_info{version=\"2\"} 1\n";
    const OLD: &str = "# HELP llm_requests_total Requests.\n# TYPE llm_requests_total counter\n\
        llm_requests_total{model=\"a b\",status=\"200\"} 10\n\
        llm_requests_total{model=\"a b\",status=\"500\"} 1\n\
        # HELP weir_in_flight Requests in flight.\n# TYPE weir_in_flight gauge\nweir_in_flight 5\n\
        # HELP weir_build_info x\n# TYPE weir_build_info gauge\nweir_build_info{version=\"1\"} 1\n\
        # HELP t_seconds x\n# TYPE t_seconds histogram\nt_seconds_bucket{le=\"+Inf\"} 4\n\
        t_seconds_sum 0.5\nt_seconds_count 4\n";

    #[test]
    fn counters_and_amounts_are_summed_and_the_leader_says_what_runs() {
        let text = merged(&[NEW, OLD], &[OLD]);
        for line in [
            "llm_requests_total{model=\"a b\",status=\"200\"} 23",
            "llm_requests_total{model=\"a b\",status=\"500\"} 2",
            "weir_in_flight 7",
            "weir_build_info{version=\"2\"} 1",
            "t_seconds_bucket{le=\"+Inf\"} 8",
            "t_seconds_sum 1",
            "t_seconds_count 8",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
        assert!(!text.contains("version=\"1\""), "{text}");
        assert_eq!(text.matches("# TYPE llm_requests_total").count(), 1);
    }

    #[test]
    fn what_upstreams_carry_is_summed_and_how_they_stand_the_leader_says() {
        let told = |amount: u8| {
            let gauges = [
                "weir_upstream_in_flight",
                "weir_upstream_queue_depth",
                "weir_breaker_state",
                "weir_upstream_healthy",
            ];
            let gauge = |name| format!("# TYPE {name} gauge\n{name}{{provider=\"p\"}} {amount}\n");
            gauges.map(gauge).concat()
        };
        let text = merged(&[&told(1), &told(2)], &[&told(4)]);
        for line in [
            "weir_upstream_in_flight{provider=\"p\"} 3",
            "weir_upstream_queue_depth{provider=\"p\"} 3",
            "weir_breaker_state{provider=\"p\"} 1",
            "weir_upstream_healthy{provider=\"p\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} in\n{text}");
        }
    }

    #[test]
    fn a_histograms_sum_is_the_same_in_any_order() {
        let text = |sum: f64| {
            format!(
                "# HELP t x\n# TYPE t histogram\nt_bucket{{le=\"+Inf\"}} 1\nt_sum {sum}\nt_count 1\n"
            )
        };
        let parts: Vec<String> = (1..40).map(|n| text(f64::from(n) * 0.1 + 1e-7)).collect();
        let mut texts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let forth = merged(&texts, &[]);
        texts.reverse();
        assert_eq!(forth, merged(&texts, &[]));
        let (half, rest) = texts.split_at(7);
        assert_eq!(forth, merged(&[&merged(half, &[])], &[&totals(rest)]));
    }

    #[test]
    fn of_the_dead_only_totals_remain_and_they_can_be_added_again() {
        let base = totals(&[OLD, OLD]);
        assert!(
            !base.contains("in_flight") && !base.contains("build_info"),
            "{base}"
        );
        assert!(merged(&[NEW], &[&base]).contains("status=\"200\"} 23"));
        assert_eq!(totals(&[]), "");
    }
}
