//! What a request comes to by what it asks for: its tokens, sound and pictures, and what they cost at most.
//! `plan` asks before anybody has served it, `settle` where the answer doesn't say what it used. It
//! decides nothing.

use super::arrive::Arrival;
use super::plan::Plan;
use crate::govern::Ask;
use crate::snapshot::Snapshot;
use crate::tokens::estimate::at_a_glance;
use crate::tokens::media::{self, Sound};
use crate::tokens::meter::{self, Media, Source, Usage};
use crate::tokens::settings::Price;
use crate::types::Money;
use http::Method;

/// Reckons with the dearest of a request's candidates.
///
/// Where a request says how long its answer may be, that bounds what it costs. Where it doesn't, the
/// model's `max_output` of the price list does; only of a model that has none an answer may cost more
/// than was thought.
pub fn reckon(snapshot: &Snapshot, plan: &Plan, arrival: &Arrival) -> Ask {
    // Reading and deleting cost nothing, and neither does the number of a prompt's tokens.
    let idle = plan.model.is_none() && IDLE.contains(&arrival.method);
    if !plan.surface.may_cost() {
        return Ask {
            tokens: 0,
            cost: Some(Money::ZERO),
        };
    }
    let thought = Thought::of(plan);
    let mut cost = Some(Money::ZERO);
    let mut tokens = 0;
    for choice in &plan.candidates {
        let endpoint = snapshot.upstreams.endpoint(choice.endpoint);
        let provider = &snapshot.upstreams.provider(endpoint.provider).name;
        let model = choice.model.as_deref().or(plan.model.as_deref());
        let price = model.and_then(|model| snapshot.prices.find(provider, model));
        let own = price.map(|price| thought.at_most(price));
        cost = cost.zip(own).map(|(cost, own)| cost.max(own));
        let usage = thought.complete(None, price);
        tokens = tokens.max(usage.map_or(0, |usage| usage.tokens()));
    }
    Ask {
        tokens,
        cost: if idle { Some(Money::ZERO) } else { cost },
    }
}

const IDLE: [Method; 4] = [Method::GET, Method::HEAD, Method::OPTIONS, Method::DELETE];

/// What a request may use.
#[derive(Clone, Copy, Debug)]
pub struct Thought {
    usage: Usage,
    /// How many answers are asked for, where it isn't said how long they may be.
    answers: Option<u64>,
    /// Sound or pictures are asked for: tokens may be another word for what is paid by the piece.
    media: bool,
}

impl Thought {
    /// By what the request says.
    pub fn of(plan: &Plan) -> Self {
        let body = &plan.body;
        let asked = body.asked();
        let prompt = || asked.and(body.plain()).map_or(0, |body| at_a_glance(body));
        let surface = plan.surface.metered();
        let (usage, answers) = match (plan.estimate, surface) {
            (Some(estimate), _) => (
                anything(estimate.input, estimate.output_max, estimate.is_text()),
                (!estimate.output_said).then_some(estimate.answers),
            ),
            (None, Some(meter::Surface::Audio)) => (media::heard(sound(plan)), None),
            (None, Some(meter::Surface::Speech)) => {
                let body = body.plain().map_or(&b""[..], |body| body);
                (media::read_out(body, prompt()), None)
            }
            (None, Some(meter::Surface::Images)) => {
                let form = body.form();
                let made = asked.and_then(|asked| asked.choices);
                let made = made.or_else(|| form?.choices).unwrap_or(1);
                let shown = form.map_or(0, |form| form.pictures);
                (media::pictures(prompt(), shown, made), None)
            }
            // An API whose prompts nobody can read.
            (None, _) => {
                let output = asked.and_then(|asked| asked.max_tokens).unwrap_or(0);
                (anything(prompt(), output, false), None)
            }
        };
        Self {
            usage,
            answers,
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

    /// What it costs at most.
    pub fn at_most(&self, price: &Price) -> Money {
        let mut usage = self.complete(None, Some(price)).unwrap_or(self.usage);
        if let Some(answers) = self.answers.filter(|_| price.output_max > 0) {
            usage.output = Some(price.output_max.saturating_mul(answers));
        }
        price.at_most(&usage)
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
