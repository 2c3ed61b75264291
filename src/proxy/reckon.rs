//! What a request comes to by what it asks for: its tokens, sound and pictures, and what they cost at most.
//! `plan` asks before anybody has served it, `settle` where the answer doesn't say what it used. It
//! decides nothing.

use super::arrive::Arrival;
use super::plan::{Plan, Surface};
use crate::govern::Ask;
use crate::snapshot::Snapshot;
use crate::tokens::estimate::at_a_glance;
use crate::tokens::family::family;
use crate::tokens::media::{self, Sound};
use crate::tokens::meter::{self, Media, Source, Usage};
use crate::tokens::prompt::length::{Length, invoked_length};
use crate::tokens::settings::Price;
use crate::types::Money;
use http::Method;

/// Reckons with the dearest of a request's candidates.
///
/// Where a request says how long its answer may be, that bounds what it costs, up to the model's
/// `max_output` of the price list; where it doesn't say so, that does. Of a model that has none, an answer
/// is thought as long as answers of its kind commonly are at most, and may cost more.
pub fn reckon(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Ask {
    // Reading and deleting cost nothing, and neither does the number of a prompt's tokens.
    let idle = plan.model.is_none() && !plan.upgrade && IDLE.contains(&arrival.method);
    let (mut tokens, mut cost) = (0, Some(Money::ZERO));
    if idle || !plan.surface.spends() {
        return Ask { tokens, cost };
    }
    // A client may name many models: its body isn't read again for each of them.
    let shared = Thought::of_any(plan);
    let prompt = shared.map_or_else(|| glance(plan), |_| 0);
    for choice in plan.course.candidates() {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let named = choice.model.as_deref().or(plan.model.as_deref());
        let length = length(plan, named);
        let others = plan.body.others().iter().map(|other| Some(&**other));
        for model in std::iter::once(named).chain(others) {
            let of_one = || Thought::of_one(plan, model, prompt, length);
            let thought = shared.unwrap_or_else(of_one);
            let price = model.and_then(|model| price(snapshot, provider, model, plan.surface));
            let most = thought.most(price);
            let own = price.map(|price| price.at_most(&most));
            cost = cost.zip(own).map(|(cost, own)| cost.max(own));
            if thought.complete(None, price).is_some() {
                tokens = tokens.max(most.tokens());
            }
        }
    }
    Ask { tokens, cost }
}

/// What a model costs on this API. A price for pieces of another kind is none: nobody has said what a chat
/// costs with a model whose pictures are paid.
pub fn price<'s>(
    snapshot: &'s Snapshot,
    provider: &str,
    model: &str,
    surface: Surface,
) -> Option<&'s Price> {
    let price = snapshot.prices.find(provider, model)?;
    let piece = match surface.metered() {
        Some(meter::Surface::Audio) => price.audio_second,
        Some(meter::Surface::Speech) => price.character,
        Some(meter::Surface::Images) => price.image,
        _ => Money::ZERO,
    };
    let fits = price.is_by_token() || piece > Money::ZERO || price.has_no_pieces();
    fits.then_some(price)
}

/// Methods of requests that read or delete.
pub const IDLE: [Method; 4] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];

/// What a request may use.
#[derive(Clone, Copy, Debug)]
pub struct Thought {
    usage: Usage,
    /// How many answers with text are asked for.
    answers: u64,
    /// It is said how long they may be.
    said: bool,
    /// Sound or pictures are asked for: tokens may be another word for what is paid by the piece.
    media: bool,
}

impl Thought {
    /// By what the request says, of the model that is asked for it.
    pub fn of(plan: &Plan, model: Option<&str>) -> Self {
        let of_one = || Self::of_one(plan, model, glance(plan), length(plan, model));
        Self::of_any(plan).unwrap_or_else(of_one)
    }

    /// The same, where it doesn't matter which model is asked.
    fn of_any(plan: &Plan) -> Option<Self> {
        let body = &plan.body;
        let (mut answers, mut said) = (0, true);
        let usage = match (plan.estimate, plan.surface.metered()) {
            (Some(estimate), _) => {
                (answers, said) = (estimate.answers, estimate.output_said);
                anything(estimate.input, estimate.output_max, estimate.is_text())
            }
            (None, Some(meter::Surface::Audio)) => media::heard(sound(plan)),
            (None, Some(meter::Surface::Speech)) => {
                let plain = body.plain().map_or(&b""[..], |body| body);
                media::read_out(plain, glance(plan))
            }
            (None, Some(meter::Surface::Images)) => {
                let made = body.choices().unwrap_or(1).max(1);
                let shown = body.form().map_or(0, |form| form.pictures);
                media::pictures(glance(plan), shown, made)
            }
            (None, _) => return None,
        };
        Some(Self {
            usage,
            answers,
            said,
            media: plan.surface.is_media(),
        })
    }

    /// Of an API whose prompts nobody can read.
    fn of_one(plan: &Plan, model: Option<&str>, prompt: u64, length: Length) -> Self {
        let longest = |model| length.each.unwrap_or(family(model).output_max.into());
        let each = model.map_or(0, longest);
        Self {
            usage: anything(prompt, each.saturating_mul(length.answers), false),
            answers: model.map_or(0, |_| length.answers),
            said: model.is_none() || length.each.is_some(),
            media: plan.surface.is_media(),
        }
    }

    /// Whether sound or pictures are asked for.
    pub fn is_media(&self) -> bool {
        self.media
    }

    /// What was reported, and of what `price` is paid for all that wasn't. `None` where that is nothing.
    pub fn complete(&self, reported: Option<Usage>, price: Option<&Price>) -> Option<Usage> {
        let seconds = reported.map_or(0, |reported| reported.media.seconds);
        let thought = match seconds {
            0 => &self.usage,
            known => &media::heard(Sound::Seconds(known)),
        };
        let by_token = price.is_some_and(Price::is_by_token) || !self.media;
        let mut usage = reported.unwrap_or_else(|| media::estimated(0, 0, Media::default()));
        let (mut guessed, mut known) = (false, false);
        if by_token && usage.tokens() == 0 && thought.tokens() > 0 {
            usage = Usage {
                media: Media {
                    seconds: usage.media.seconds,
                    images: usage.media.images,
                    characters: usage.media.characters,
                    ..thought.media
                },
                ..*thought
            };
            guessed = true;
        }
        if let Some(price) = price {
            let mut piece = |cost: Money, used: &mut u64, thought: u64, sure: bool| {
                if cost > Money::ZERO && *used == 0 && thought > 0 {
                    *used = thought;
                    guessed |= !sure;
                    known |= sure;
                }
            };
            let (used, thought) = (&mut usage.media, &thought.media);
            piece(
                price.audio_second,
                &mut used.seconds,
                thought.seconds,
                false,
            );
            piece(price.image, &mut used.images, thought.images, false);
            piece(
                price.character,
                &mut used.characters,
                thought.characters,
                true,
            );
        }
        usage.source = match (reported, guessed) {
            (_, true) => Source::Estimated,
            (None, false) => Source::Counted,
            (Some(reported), false) => reported.source,
        };
        (reported.is_some() || guessed || known).then_some(usage)
    }

    /// The most that may be used of a model with this price: answers are no longer than it can give.
    pub fn most(&self, price: Option<&Price>) -> Usage {
        let mut usage = self.complete(None, price).unwrap_or(self.usage);
        let longest = price.map_or(0, |price| price.output_max);
        if longest > 0 && self.answers > 0 {
            let longest = longest.saturating_mul(self.answers);
            usage.output = Some(match (self.said, usage.output) {
                (true, Some(output)) => output.min(longest),
                _ => longest,
            });
        }
        usage
    }
}

/// Tokens of an API whose prompts may have sound and pictures, unless it is known that this has none.
fn anything(input: u64, output: u64, text: bool) -> Usage {
    let shown = if text { 0 } else { input };
    let media = Media {
        audio_input: shown,
        image_input: shown,
        ..Media::default()
    };
    media::estimated(input, output, media)
}

/// The sound of a transcription: a form's file, else all that was sent.
fn sound(plan: &Plan) -> Sound<'_> {
    let body = &plan.body;
    let form = body.form().filter(|form| !form.file_at.is_empty());
    let file = form.and_then(|form| body.plain()?.get(form.file_at.clone()));
    file.map_or(Sound::Bytes(body.length()), Sound::File)
}

/// About how many tokens a JSON body has.
fn glance(plan: &Plan) -> u64 {
    let body = plan.body.asked().and(plan.body.plain());
    body.map_or(0, |body| at_a_glance(body))
}

/// How long the answers of an API may be whose prompts nobody can read.
fn length(plan: &Plan, model: Option<&str>) -> Length {
    match (plan.surface.metered(), plan.body.plain()) {
        (Some(meter::Surface::Invoke), Some(body)) => {
            invoked_length(model.unwrap_or_default(), body)
        }
        _ => Length {
            each: None,
            answers: plan.body.choices().unwrap_or(1).max(1),
        },
    }
}
