//! What must hold of one request: what its client saw, what its record says and what model servers
//! served are one story.

use super::fault::Fault;
use super::gateway::{LATENCY_MAX, SERVERS};
use super::plan::{Team, Way};
use super::records::Record;
use super::seen::{Answer, Ending, Seen};
use super::words::{HEARTBEAT, SERVERS_ERROR, Stream, Usage, expected, read_whole};
use super::world::Served;

/// The end of a record of an answer that went out whole.
const COMPLETE: &str = "complete";

/// What a client made of an answer's content.
#[derive(Debug, PartialEq, Eq)]
enum Content {
    /// The right answer, whole.
    Right(Option<Usage>),
    /// weir refuses.
    Refused,
    /// A right beginning, and then an error of this code.
    Error(String),
    /// A right beginning, and no more.
    Beginning,
    /// Something else, as a failing server sends it.
    Other,
}

/// Everything that is known of a request.
pub struct Case<'a> {
    pub seen: &'a Seen,
    pub records: &'a [Record],
    pub served: &'a [Served],
    /// Words of the right answer.
    pub words: u64,
}

impl Case<'_> {
    /// What doesn't hold; nothing, if all is well.
    pub fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        if self.seen.ending == Ending::Late {
            found.push("it didn't end".to_owned());
        }
        self.check_number_of_records(&mut found);
        if self.seen.way.behaves() {
            self.check_that_it_was_answered(&mut found);
        }
        let content = self.seen.answer.as_ref().map(|answer| self.content(answer));
        if let (Some(answer), Some(content)) = (&self.seen.answer, &content) {
            self.check_answer(answer, content, &mut found);
        }
        if let [record] = self.records {
            self.check_record(record, &mut found);
            if let (Some(answer), Some(content)) = (&self.seen.answer, &content) {
                self.check_story(record, answer, content, &mut found);
            }
        }
        found
    }

    /// Whether a steady client got what it came for.
    pub fn is_success(&self) -> bool {
        let answer = self.seen.answer.as_ref();
        answer.is_some_and(|answer| matches!(self.content(answer), Content::Right(_)))
    }

    /// One record for each request of which weir can have heard.
    fn check_number_of_records(&self, found: &mut Vec<String>) {
        let (least, most) = self.seen.records();
        if !(least..=most).contains(&self.records.len()) {
            let ends: Vec<&str> = self.records.iter().map(|it| it.end.as_str()).collect();
            found.push(format!(
                "{} records instead of {least} to {most}: {ends:?}",
                ends.len()
            ));
        }
    }

    fn check_that_it_was_answered(&self, found: &mut Vec<String>) {
        match (&self.seen.answer, &self.seen.ending) {
            (None, Ending::Broke(_)) if self.seen.behind && self.records.is_empty() => {}
            (None, Ending::Broke(how)) => found.push(format!("it got no answer: {how}")),
            (Some(_), Ending::Left) => found.push("a client left that never leaves".into()),
            _ => {}
        }
    }

    fn content(&self, answer: &Answer) -> Content {
        if answer.refusal.is_some() {
            return Content::Refused;
        }
        if answer.status != 200 || answer.encoded {
            return Content::Other;
        }
        let right = expected(self.seen.surface, self.seen.id, self.words);
        if let Some(stream) = &answer.events {
            if let Some(code) = &stream.error {
                return Content::Error(code.clone());
            }
            let whole = stream.text == right && stream.finished && stream.done;
            return match whole && stream.strange.is_empty() {
                true => Content::Right(stream.usage),
                false => Content::Beginning,
            };
        }
        match read_whole(self.seen.surface, &answer.body) {
            Some((text, usage)) if text == right => Content::Right(Some(usage)),
            _ => Content::Other,
        }
    }

    /// What can be said of an answer without weir's own account of it.
    fn check_answer(&self, answer: &Answer, content: &Content, found: &mut Vec<String>) {
        if let Some(stream) = &answer.events {
            self.check_stream(answer, stream, content, found);
        } else if answer.status == 200 && !answer.encoded && self.seen.ending == Ending::Whole {
            let odd = [
                Fault::LengthTooShort,
                Fault::LengthAndChunks,
                Fault::UntilClose,
                Fault::Html200,
                Fault::Endless,
            ];
            let known = self
                .served
                .last()
                .is_some_and(|last| odd.contains(&last.fault));
            if *content == Content::Other && !known {
                let text = String::from_utf8_lossy(&answer.body);
                let text: String = text.chars().take(200).collect();
                found.push(format!("a whole answer that isn't the right one: {text:?}"));
            }
        }
        if self.seen.ending == Ending::Closed && answer.refusal.is_some() {
            found.push("a refusal without a length".into());
        }
        let told = answer.retry_after.is_some() || answer.is_final;
        if matches!(answer.status, 429 | 503) && answer.refusal.is_some() && !told {
            found.push(format!("{} without Retry-After", answer.status));
        }
        if answer.body.starts_with(br#"{"forged""#) {
            found.push("an answer that nobody asked for was delivered".into());
        }
    }

    /// A cut stream never looks whole, and none has another one's words.
    fn check_stream(
        &self,
        answer: &Answer,
        stream: &Stream,
        content: &Content,
        found: &mut Vec<String>,
    ) {
        let right = expected(self.seen.surface, self.seen.id, self.words);
        if !right.starts_with(&stream.text) && !self.last_is(&[Fault::Endless]) {
            found.push(format!(
                "its words aren't those of its answer: {:?}",
                stream.text
            ));
        }
        let late = stream
            .strange
            .iter()
            .find(|it| it.starts_with("after the end"));
        if let Some(late) = late {
            found.push(format!("something came {late:?}"));
        }
        let servers_error = stream.error.as_deref() == Some(SERVERS_ERROR);
        if stream.done && stream.error.is_some() && !servers_error {
            found.push("an error and the mark of a whole stream".into());
        }
        if stream.done && stream.error.is_none() && !matches!(content, Content::Right(_)) {
            found.push(format!("a cut stream that looks whole: {stream:?}"));
        }
        let ended = matches!(self.seen.ending, Ending::Whole | Ending::Closed);
        if ended && !answer.encoded && *content == Content::Beginning {
            let finished = self.last_is(&[Fault::NoEndMark]) && stream.finished;
            if !finished && !stream.done {
                found.push("a stream that ended without its mark and without an error".into());
            }
        }
    }

    fn last_is(&self, faults: &[Fault]) -> bool {
        self.served
            .iter()
            .any(|served| faults.contains(&served.fault))
    }

    /// What can be said of a record by itself.
    fn check_record(&self, record: &Record, found: &mut Vec<String>) {
        if record.latency_ms > LATENCY_MAX.as_millis() as f64 {
            found.push(format!("it took {} ms", record.latency_ms));
        }
        if record.end == "aborted" {
            found.push("weir gave it up by a fault of its own".into());
        }
        if record.source.as_deref() == Some("upstream") {
            let of_them = |it: &&Served| {
                SERVERS[it.server].0 == record.provider.as_deref().unwrap_or_default()
                    && match it.shared {
                        None => it.usage.input == record.usage.input,
                        // Its part; the court adds them up.
                        Some(_) => it.usage.input >= record.usage.input,
                    }
            };
            if !self.served.iter().any(|it| of_them(&it)) {
                found.push(format!("nobody reported its usage: {:?}", record.usage));
            }
        }
        if record.attempts < self.served.len() as u64 && !self.may_be_sent_again(record) {
            let (tries, told) = (self.served.len(), record.attempts);
            found.push(format!("{tries} tries were served, its record says {told}"));
        }
    }

    /// A request whose pooled connection had died is sent once more, and that is no try.
    fn may_be_sent_again(&self, record: &Record) -> bool {
        self.served.len() as u64 <= record.attempts + 1
    }

    /// What weir says of it is what its client saw.
    fn check_story(
        &self,
        record: &Record,
        answer: &Answer,
        content: &Content,
        found: &mut Vec<String>,
    ) {
        let seen = self.seen;
        let mut differs = |what: &str, told: &dyn std::fmt::Debug, saw: &dyn std::fmt::Debug| {
            found.push(format!(
                "its record says {what} {told:?}, its client saw {saw:?}"
            ));
        };
        if record.status != answer.status {
            differs("status", &record.status, &answer.status);
        }
        let heartbeats = answer.events.as_ref().map_or(0, |stream| stream.heartbeats);
        let bytes = answer
            .bytes
            .saturating_sub(heartbeats * HEARTBEAT.len() as u64);
        // Of a stream that its client left there can be a part of one more.
        let part = if heartbeats > 0 {
            HEARTBEAT.len() as u64
        } else {
            0
        };
        if bytes > record.bytes_out + part {
            differs("bytes_out", &record.bytes_out, &bytes);
        }
        if answer.provider.is_some() && record.provider != answer.provider {
            differs("provider", &record.provider, &answer.provider);
        }
        if let Some(code) = &answer.refusal
            && record.end != format!("refused:{code}")
            && seen.ending == Ending::Whole
        {
            differs("end", &record.end, code);
        }
        if let Content::Error(code) = content
            && code != SERVERS_ERROR
            && record.end == COMPLETE
        {
            differs("end", &record.end, code);
        }
        if matches!(seen.ending, Ending::Broke(_)) && record.end == COMPLETE {
            let done = answer.events.as_ref().is_some_and(|stream| stream.done);
            if !done {
                differs("end", &record.end, &seen.ending);
            }
        }
        if seen.ending != Ending::Whole {
            return;
        }
        if bytes != record.bytes_out {
            differs("bytes_out", &record.bytes_out, &bytes);
        }
        if record.end == "client_closed"
            && !matches!(seen.way, Way::HalfClose | Way::StopReading(_))
        {
            differs("end", &record.end, &seen.ending);
        }
        let Content::Right(usage) = content else {
            return;
        };
        if record.end != COMPLETE {
            differs("end", &record.end, &seen.ending);
        }
        match usage {
            Some(usage)
                if record.source.as_deref() != Some("upstream") || record.usage != *usage =>
            {
                differs("usage", &(record.usage, &record.source), usage);
            }
            None if record.source.as_deref() != Some("upstream") => {
                differs(
                    "usage",
                    &(record.usage, &record.source),
                    &"a stream that reports it",
                );
            }
            _ => {}
        }
        if answer.refusal.is_none() && seen.team == Team::Stranger {
            differs("team", &record.team, &"an answer without a key");
        }
    }
}
