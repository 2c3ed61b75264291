//! Requests for one embedding each that become one request for all of them, and the answer to it that
//! becomes one answer for each. Pure; called by `proxy::call`.
//!
//! What isn't the input is left as it was written, and requests belong together only where that is the
//! same, byte for byte. Whatever isn't understood is no such request, or no such answer.

use crate::json::{self, Cursor, Fault};
use std::ops::Range;

/// A request for one embedding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Single {
    /// The value of `input`.
    at: Range<usize>,
    /// The one thing in it that is to be embedded.
    item: Range<usize>,
    kind: Kind,
}

/// A list of inputs has one kind of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Tokens,
}

/// Reads a body; `None` where it isn't a request for one embedding that could be one of several.
pub fn read(body: &[u8]) -> Option<Single> {
    let mut single = None;
    for member in json::members(body) {
        let member = member.ok()?;
        let value = &body[member.value_at.clone()];
        if member.key == "input" {
            let (item, kind) = item(body, member.value_at.clone())?;
            let found = Single {
                at: member.value_at,
                item,
                kind,
            };
            if single.replace(found).is_some() {
                return None;
            }
            continue;
        }
        // Servers may take these for others, or for one thing for each input.
        let odd = member.key.eq_ignore_ascii_case("input") || member.key == "stream";
        if odd || matches!(value.first(), Some(b'[' | b'{')) {
            return None;
        }
    }
    single
}

impl Single {
    /// What is to be embedded, as it is written.
    pub fn item<'b>(&self, body: &'b [u8]) -> &'b [u8] {
        &body[self.item.clone()]
    }

    /// The rest of the body: the same for all that belong together.
    pub fn rest(&self, body: &[u8]) -> Vec<u8> {
        let kind: &[u8] = match self.kind {
            Kind::Text => b"\0text\0",
            Kind::Tokens => b"\0tokens\0",
        };
        [&body[..self.at.start], kind, &body[self.at.end..]].concat()
    }

    /// The body with these inputs instead of its own.
    pub fn with<'i>(&self, body: &[u8], items: impl IntoIterator<Item = &'i [u8]>) -> Vec<u8> {
        let mut whole = body[..self.at.start].to_vec();
        whole.push(b'[');
        for (number, item) in items.into_iter().enumerate() {
            if number > 0 {
                whole.push(b',');
            }
            whole.extend_from_slice(item);
        }
        whole.push(b']');
        whole.extend_from_slice(&body[self.at.end..]);
        whole
    }
}

/// The one input that a value is, or holds.
fn item(body: &[u8], at: Range<usize>) -> Option<(Range<usize>, Kind)> {
    if json::string(&body[at.clone()]).is_some() {
        return Some((at, Kind::Text));
    }
    if are_tokens(&body[at.clone()]) {
        return Some((at, Kind::Tokens));
    }
    let [only] = &elements(&body[at.clone()])?[..] else {
        return None;
    };
    let item = at.start + only.start..at.start + only.end;
    let value = &body[item.clone()];
    match json::string(value).is_some() {
        true => Some((item, Kind::Text)),
        false => are_tokens(value).then_some((item, Kind::Tokens)),
    }
}

/// A list of ids of tokens, of one at least.
fn are_tokens(value: &[u8]) -> bool {
    elements(value).is_some_and(|all| {
        let is_id = |at: &Range<usize>| value[at.clone()].iter().all(u8::is_ascii_digit);
        !all.is_empty() && all.iter().all(is_id)
    })
}

/// The places of a list's elements.
fn elements(list: &[u8]) -> Option<Vec<Range<usize>>> {
    let read = || -> Result<Vec<Range<usize>>, Fault> {
        let (mut cursor, mut all) = (Cursor::new(list), Vec::new());
        let mut another = cursor.enter(b'[')?;
        while another {
            all.push(cursor.skip()?);
            another = cursor.more(b'[')?;
        }
        cursor.end()?;
        Ok(all)
    };
    read().ok()
}

/// The answer to several inputs as one answer for each, in the order of the inputs. What was used is
/// divided by `weights`, so that the parts of each number are together what it is. `None` where it isn't
/// such an answer: other embeddings than were asked for, or none that could be told apart.
pub fn split(answer: &[u8], weights: &[u64]) -> Option<Vec<Vec<u8>>> {
    let (mut data, mut usage) = (None, None);
    for member in json::members(answer) {
        let member = member.ok()?;
        let place = match &*member.key {
            "data" => &mut data,
            "usage" => &mut usage,
            _ => continue,
        };
        if place.replace(member.value_at).is_some() {
            return None;
        }
    }
    let data = data?;
    let parts = embeddings(&answer[data.clone()], weights.len())?;
    let mut edits = vec![(data, parts)];
    if let Some(usage) = usage.filter(|at| !json::is_null(&answer[at.clone()])) {
        let shares = shares(&answer[usage.clone()], weights, 0)?;
        edits.push((usage, shares));
    }
    edits.sort_unstable_by_key(|(at, _)| at.start);
    let one = |number: usize| {
        let (mut part, mut from) = (Vec::new(), 0);
        for (at, values) in &edits {
            part.extend_from_slice(&answer[from..at.start]);
            part.extend_from_slice(&values[number]);
            from = at.end;
        }
        part.extend_from_slice(&answer[from..]);
        part
    };
    Some((0..weights.len()).map(one).collect())
}

/// A list of one embedding for each input, by the `index` that each says.
fn embeddings(data: &[u8], count: usize) -> Option<Vec<Vec<u8>>> {
    let all = elements(data)?;
    if all.len() != count {
        return None;
    }
    let mut parts = vec![Vec::new(); count];
    for at in all {
        let embedding = &data[at];
        let mut index = None;
        for member in json::members(embedding) {
            let member = member.ok()?;
            if member.key == "index" && index.replace(member.value_at).is_some() {
                return None;
            }
        }
        let index = index?;
        let number = json::whole(&embedding[index.clone()])?;
        let part = parts.get_mut(usize::try_from(number).ok()?)?;
        if !part.is_empty() {
            return None;
        }
        *part = [
            b"[",
            &embedding[..index.start],
            b"0",
            &embedding[index.end..],
            b"]",
        ]
        .concat();
    }
    Some(parts)
}

/// An object of numbers, and of such objects, for each of the weights.
fn shares(object: &[u8], weights: &[u64], depth: usize) -> Option<Vec<Vec<u8>>> {
    /// `prompt_tokens_details` and the like.
    const DEPTH_MAX: usize = 4;
    let mut all = vec![Vec::new(); weights.len()];
    let mut from = 0;
    for member in json::members(object) {
        let member = member.ok()?;
        let value = &object[member.value_at.clone()];
        let values: Vec<Vec<u8>> = match value.first() {
            Some(b'{') if depth < DEPTH_MAX => shares(value, weights, depth + 1)?,
            Some(b'0'..=b'9') => {
                let parts: Vec<String> = match json::whole(value) {
                    Some(total) => {
                        let parts = divided(total, weights).into_iter();
                        parts.map(|part| part.to_string()).collect()
                    }
                    None => {
                        let total: f64 = std::str::from_utf8(value).ok()?.parse().ok()?;
                        // JSON has no word for what is too large.
                        fractions(Some(total).filter(|it| it.is_finite())?, weights)
                    }
                };
                parts.into_iter().map(String::into_bytes).collect()
            }
            Some(b'{' | b'[' | b'-') => return None,
            _ => continue,
        };
        for (share, value) in all.iter_mut().zip(values) {
            share.extend_from_slice(&object[from..member.value_at.start]);
            share.extend_from_slice(&value);
        }
        from = member.value_at.end;
    }
    for share in &mut all {
        share.extend_from_slice(&object[from..]);
    }
    Some(all)
}

/// Parts of what isn't counted in whole ones, such as money: as near as a float comes to them.
fn fractions(total: f64, weights: &[u64]) -> Vec<String> {
    let sum: f64 = weights.iter().map(|&weight| weight as f64).sum();
    let part = |weight: u64| match sum > 0.0 {
        true => total * (weight as f64 / sum),
        false => total / weights.len() as f64,
    };
    weights.iter().map(|&it| part(it).to_string()).collect()
}

/// A number divided by weights: its parts are together what it is, and each differs from its true part by
/// less than 1 (the method of largest remainders). Where no weight counts, they are alike.
fn divided(total: u64, weights: &[u64]) -> Vec<u64> {
    let alike = vec![1; weights.len()];
    let sum: u128 = weights.iter().map(|&weight| u128::from(weight)).sum();
    if sum == 0 && !weights.is_empty() {
        return divided(total, &alike);
    }
    let of = |weight: u64| u128::from(total) * u128::from(weight);
    let floor = |weight| u64::try_from(of(weight) / sum).unwrap_or(total);
    let mut parts: Vec<u64> = weights.iter().map(|&weight| floor(weight)).collect();
    let left = total - parts.iter().sum::<u64>();
    let mut order: Vec<usize> = (0..weights.len()).collect();
    order.sort_by_key(|&number| std::cmp::Reverse(of(weights[number]) % sum));
    for &number in order
        .iter()
        .take(usize::try_from(left).unwrap_or(usize::MAX))
    {
        parts[number] += 1;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};
    use serde_json::{Value, json};

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_request_for_one_embedding_is_one_however_its_input_is_written() {
        for (body, item, kind) in [
            (
                r#"{"model":"e","input":"a \" ] b"}"#,
                r#""a \" ] b""#,
                Kind::Text,
            ),
            (r#"{"input": [ "a" ] ,"model":"e"}"#, r#""a""#, Kind::Text),
            (r#"{"input":[1, 2],"dimensions":8}"#, "[1, 2]", Kind::Tokens),
            (r#"{"input":[[1,2]],"user":"u"}"#, "[1,2]", Kind::Tokens),
        ] {
            let single = read(body.as_bytes()).unwrap_or_else(|| panic!("{body}"));
            assert_eq!(text(single.item(body.as_bytes())), item, "{body}");
            assert_eq!(single.kind, kind, "{body}");
        }
    }

    #[test]
    fn what_may_be_more_or_other_than_one_embedding_is_none() {
        for body in [
            r#"{"model":"e"}"#,
            r#"{"input":["a","b"]}"#,
            r#"{"input":[]}"#,
            r#"{"input":[[]]}"#,
            r#"{"input":[[1],[2]]}"#,
            r#"{"input":[1,"a"]}"#,
            r#"{"input":[1.5]}"#,
            r#"{"input":[-1]}"#,
            r#"{"input":null}"#,
            r#"{"input":{"text":"a"}}"#,
            r#"{"input":"a","input":"b"}"#,
            r#"{"input":"a","Input":"b"}"#,
            r#"{"input":"a","stream":true}"#,
            r#"{"input":"a","titles":["t"]}"#,
            r#"{"input":"a","options":{}}"#,
            r#"{"input":"bad \x escape"}"#,
            r#"{"input":"a""#,
            "[]",
            "",
        ] {
            assert_eq!(read(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn those_belong_together_that_differ_in_their_input_only() {
        let rest = |body: &str| read(body.as_bytes()).unwrap().rest(body.as_bytes());
        let one = rest(r#"{"model":"e","input":"a"}"#);
        assert_eq!(one, rest(r#"{"model":"e","input":["b"]}"#));
        for other in [
            r#"{"model":"f","input":"a"}"#,
            r#"{"model":"e","input":"a","dimensions":8}"#,
            r#"{"model":"e","input":[1]}"#,
            r#"{"input":"a","model":"e"}"#,
        ] {
            assert_ne!(one, rest(other), "{other}");
        }
        let body = br#"{"model":"e","input":"a","user":"u"}"#;
        let items: [&[u8]; 2] = [br#""a""#, br#""b""#];
        let whole = read(body).unwrap().with(body, items);
        assert_eq!(
            text(&whole),
            r#"{"model":"e","input":["a","b"],"user":"u"}"#
        );
    }

    #[test]
    fn an_answer_is_split_by_the_index_that_each_embedding_has() {
        let answer = br#"{"object":"list","data":[{"index":1,"embedding":"Yg=="},{"embedding":"YQ==","index":0}],"model":"e","usage":{"prompt_tokens":7,"total_tokens":7,"prompt_tokens_details":{"text_tokens":5},"cost":null}}"#;
        let parts = split(answer, &[2, 1]).unwrap();
        assert_eq!(
            text(&parts[0]),
            r#"{"object":"list","data":[{"embedding":"YQ==","index":0}],"model":"e","usage":{"prompt_tokens":5,"total_tokens":5,"prompt_tokens_details":{"text_tokens":3},"cost":null}}"#
        );
        assert_eq!(
            text(&parts[1]),
            r#"{"object":"list","data":[{"index":0,"embedding":"Yg=="}],"model":"e","usage":{"prompt_tokens":2,"total_tokens":2,"prompt_tokens_details":{"text_tokens":2},"cost":null}}"#
        );
    }

    #[test]
    fn an_answer_that_has_something_else_is_not_split() {
        for answer in [
            r#"{"data":[{"index":0}]}"#,
            r#"{"data":[{"index":0},{"index":1},{"index":2}]}"#,
            r#"{"data":[{"index":0},{"index":0}]}"#,
            r#"{"data":[{"index":0},{"index":2}]}"#,
            r#"{"data":[{"index":0},{}]}"#,
            r#"{"data":[{"index":0},{"index":1,"index":1}]}"#,
            r#"{"data":[1,2]}"#,
            r#"{"data":{}}"#,
            r#"{"data":[{"index":0},{"index":1}],"data":[]}"#,
            r#"{"data":[{"index":0},{"index":1}],"usage":{"cost":-1}}"#,
            r#"{"data":[{"index":0},{"index":1}],"usage":{"cost":1e999}}"#,
            r#"{"data":[{"index":0},{"index":1}],"usage":[1]}"#,
            r#"{"data":[{"index":0},{"index":1}]"#,
            r#"{"error":{}}"#,
            "",
        ] {
            assert_eq!(split(answer.as_bytes(), &[1, 1]), None, "{answer}");
        }
        let both = |usage: &str| {
            let answer = format!(r#"{{"data":[{{"index":0}},{{"index":1}}],"usage":{usage}}}"#);
            split(answer.as_bytes(), &[1, 3])
        };
        assert!(both("null").is_some());
        let priced = both(r#"{"cost":0.5}"#).unwrap();
        assert!(text(&priced[1]).ends_with(r#""usage":{"cost":0.375}}"#));
    }

    /// Whatever is reported, and however the inputs differ in size.
    #[test]
    fn nothing_of_what_was_used_is_lost_or_made() {
        for seed in 0..200 {
            let mut chance = StdRng::seed_from_u64(seed);
            let count = chance.random_range(1..=40);
            let weight = |chance: &mut StdRng| match chance.random_range(0..4) {
                0 => 0,
                1 => chance.random_range(0..10),
                2 => chance.random_range(0..10_000),
                _ => chance.random::<u64>() >> 8,
            };
            let weights: Vec<u64> = (0..count).map(|_| weight(&mut chance)).collect();
            let (prompt, total) = (weight(&mut chance), weight(&mut chance));
            let mut order: Vec<usize> = (0..count).collect();
            for number in 0..count {
                order.swap(number, chance.random_range(0..count));
            }
            let data: Vec<Value> = (order.iter())
                .map(
                    |number| json!({"object": "embedding", "index": number, "embedding": [number]}),
                )
                .collect();
            let usage = json!({"prompt_tokens": prompt, "total_tokens": total});
            let answer = json!({"data": data, "model": "e", "usage": usage}).to_string();
            let parts = split(answer.as_bytes(), &weights).unwrap_or_else(|| panic!("seed {seed}"));
            let parts: Vec<Value> = (parts.iter())
                .map(|part| serde_json::from_slice(part).expect("JSON"))
                .collect();
            for (number, part) in parts.iter().enumerate() {
                let embedding = json!([{"object": "embedding", "index": 0, "embedding": [number]}]);
                assert_eq!(
                    (&part["data"], &part["model"]),
                    (&embedding, &json!("e")),
                    "seed {seed}"
                );
            }
            let of = |name: &str| -> Vec<u64> {
                let part = |part: &Value| part["usage"][name].as_u64().expect("a number");
                parts.iter().map(part).collect()
            };
            let sum: u128 = weights.iter().map(|&it| u128::from(it)).sum();
            for (name, reported) in [("prompt_tokens", prompt), ("total_tokens", total)] {
                let shares = of(name);
                assert_eq!(shares.iter().sum::<u64>(), reported, "seed {seed}: {name}");
                for (&share, &weight) in shares.iter().zip(&weights).filter(|_| sum > 0) {
                    let floor = u128::from(reported) * u128::from(weight) / sum;
                    assert!(
                        (floor..=floor + 1).contains(&u128::from(share)),
                        "seed {seed}: {name}"
                    );
                }
            }
        }
    }
}
