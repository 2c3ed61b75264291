//! Tokens that the upstream didn't report are counted, and those that it did teach what counts are
//! worth. All of it on the thread that serves nobody, or not at all.

use super::Settled;
use crate::observe::access::End;
use crate::tokens::calibration::{Calibration, Key, LEARNED_BYTES_MAX, Sample};
use crate::tokens::family::family;
use crate::tokens::meter::{self, Ending, Source};
use crate::tokens::prompt::{Api, Prompt, prompt};
use bytes::Bytes;
use std::sync::Arc;

/// What a settled request's tokens are counted by.
struct Subject<'a> {
    calibration: &'a Calibration,
    key: Key<'a>,
    api: Api,
    body: Option<&'a Bytes>,
}

impl Settled {
    /// The usage with all that is missing in it counted.
    pub(super) fn counted(&mut self) -> Option<meter::Usage> {
        let subject = Self::subject(&self.snapshot, self.tried.as_ref(), self.plan.as_ref());
        let rough = super::roughly(self.plan.as_ref(), &self.reply);
        let meter = self.reply.meter.as_mut()?;
        let reported = meter.usage();
        let Some(subject) = subject else {
            let mut usage = meter.settle(|| rough.input.unwrap_or(0));
            if reported.is_none_or(|reported| reported.input.is_none()) {
                usage.source = Source::Estimated;
            }
            return Some(followed(meter, usage, rough));
        };
        let mut seen = None;
        let mut usage = meter.settle(|| subject.input(&mut seen));
        // Input that is missing though output isn't: then that is the upstream's own.
        let own = reported.is_some_and(|it| it.output.is_some() && it.input.is_none());
        if let (Source::Estimated, Some(counted), false) = (usage.source, usage.output, own) {
            let wide = seen
                .or_else(|| subject.prompt())
                .is_some_and(|prompt| prompt.is_wide());
            let deltas = meter.deltas();
            let output = (subject.calibration).output(subject.key, wide, counted, deltas);
            usage.output = Some(output);
        }
        let told = reported.is_some_and(|reported| reported.input.is_some());
        if !told && !seen.is_some_and(|prompt| prompt.counted && !prompt.guessed) {
            usage.source = Source::Estimated;
        }
        Some(followed(meter, usage, rough))
    }

    /// Learns from what the upstream reported, if there is time and it is this request's turn.
    pub(super) fn teach(mut self, usage: Option<meter::Usage>) {
        let (Some(usage), Some(meter)) = (usage, self.reply.meter.as_mut()) else {
            return;
        };
        if usage.source != Source::Upstream || self.reply.end != Some(End::Complete) {
            return;
        }
        let subject = Self::subject(&self.snapshot, self.tried.as_ref(), self.plan.as_ref());
        let Some(subject) = subject.filter(|subject| !family(subject.key.model).exact) else {
            return;
        };
        // Of a JSON body that took a look at all of it.
        let whole = meter.deltas().is_none()
            || matches!(meter.saw_finish(), Ending::Done | Ending::Finished);
        if let (true, Some(deltas), Some(reported)) = (whole, meter.deltas(), usage.output) {
            let sample = Sample::Deltas { deltas, reported };
            subject.calibration.learn(subject.key, sample);
        }
        let bytes = subject.body.map_or(0, Bytes::len);
        let cached = (usage.cached.unwrap_or(0)).saturating_add(usage.cache_write.unwrap_or(0));
        if bytes == 0 || bytes > LEARNED_BYTES_MAX || cached > 0 || !whole {
            return;
        }
        if subject.calibration.wants(subject.key) {
            let observer = Arc::clone(&self.snapshot.observer);
            observer.aside_if_idle(bytes, move || self.learn(usage));
        }
    }

    fn learn(&mut self, usage: meter::Usage) {
        let subject = Self::subject(&self.snapshot, self.tried.as_ref(), self.plan.as_ref());
        let Some(subject) = subject else { return };
        let Some(prompt) = subject.prompt() else {
            return;
        };
        if let Some(reported) = usage.input {
            let prompt = &prompt;
            let sample = Sample::Input { prompt, reported };
            subject.calibration.learn(subject.key, sample);
        }
        // Reasoning may not have been delivered.
        let hidden = usage.reasoning.is_some_and(|tokens| tokens > 0);
        let meter = self.reply.meter.as_mut().filter(|_| !hidden);
        if let (Some(meter), Some(reported)) = (meter, usage.output) {
            let sample = Sample::Output {
                wide: prompt.is_wide(),
                counted: meter.delivered(),
                reported,
            };
            subject.calibration.learn(subject.key, sample);
        }
    }

    fn subject<'a>(
        snapshot: &'a super::Snapshot,
        tried: Option<&'a super::Tried>,
        plan: Option<&'a super::Plan>,
    ) -> Option<Subject<'a>> {
        let (tried, plan) = (tried?, plan?);
        let provider = snapshot.upstreams.provider(tried.endpoint.provider);
        Some(Subject {
            calibration: &snapshot.calibration,
            key: Key {
                provider: &provider.name,
                model: super::asked_model(Some(tried), plan),
            },
            api: Api::of(plan.surface.metered()?)?,
            body: plan.body.plain(),
        })
    }
}

/// The output of an answer that couldn't be followed is estimated by its length.
fn followed(meter: &meter::Meter, usage: meter::Usage, rough: meter::Usage) -> meter::Usage {
    if !meter.is_blind() {
        return usage;
    }
    let output = match meter.has_output() {
        true => usage.output.max(rough.output),
        false => usage.output,
    };
    meter::Usage {
        output,
        source: Source::Estimated,
        ..usage
    }
}

impl Subject<'_> {
    fn prompt(&self) -> Option<Prompt> {
        let body = self.body?;
        Some(prompt(self.api, self.key.model, body))
    }

    /// The tokens of the prompt; it is left in `seen`.
    fn input(&self, seen: &mut Option<Prompt>) -> u64 {
        *seen = self.prompt();
        let input = |prompt: &Prompt| self.calibration.input(self.key, prompt);
        seen.as_ref().map_or(0, input)
    }
}
