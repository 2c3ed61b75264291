//! Changes of what makes sense into what may not.

use rand::RngExt;
use rand::rngs::SmallRng;
use serde_json::{Map, Value, json};

use crate::seen::{self, Happened, Wire};

/// Knows the names and values that occur in what it changes.
#[derive(Debug)]
pub struct Mutator {
    names: Vec<String>,
    values: Vec<Value>,
}

// === impl Mutator ===

impl Mutator {
    /// Learns from these.
    pub fn of(all: &[Value]) -> Self {
        let mut names = vec!["x".to_owned()];
        let mut values = vec![
            Value::Null,
            json!(-1),
            json!(0),
            json!(1.5),
            json!(1e300),
            json!(u64::MAX),
            json!(4_294_967_296_u64),
            json!(""),
            json!("\u{1F600}\u{0}\"\\"),
            json!([]),
            json!({}),
            json!(true),
            json!(false),
            json!([[[[{}]]]]),
        ];
        for value in all {
            learn(value, &mut names, &mut values);
        }
        Self { names, values }
    }

    /// Any value.
    pub fn value(&self, chance: &mut SmallRng, depth: usize) -> Value {
        match chance.random_range(0..4) {
            0 if depth > 0 => {
                let length = chance.random_range(0..4);
                (0..length).map(|_| self.value(chance, depth - 1)).collect()
            }
            1 | 2 if depth > 0 => {
                let mut map = Map::new();
                for _ in 0..chance.random_range(0..6) {
                    map.insert(self.name(chance), self.value(chance, depth - 1));
                }
                Value::Object(map)
            }
            _ => self.values[chance.random_range(0..self.values.len())].clone(),
        }
    }

    fn name(&self, chance: &mut SmallRng) -> String {
        self.names[chance.random_range(0..self.names.len())].clone()
    }

    /// Changes one place of a value.
    pub fn json(&self, chance: &mut SmallRng, value: &mut Value) {
        let here = chance.random_range(0..4) == 0;
        match value {
            Value::Object(map) if !here && !map.is_empty() => {
                let at = chance.random_range(0..map.len());
                let name = map.keys().nth(at).expect("a name").clone();
                match chance.random_range(0..8) {
                    0 => drop(map.shift_remove(&name)),
                    1 => drop(map.insert(self.name(chance), self.value(chance, 2))),
                    2 => {
                        let moved = map.shift_remove(&name).expect("a value");
                        map.insert(self.name(chance), moved);
                    }
                    _ => self.json(chance, &mut map[&name]),
                }
            }
            Value::Array(list) if !here && !list.is_empty() => {
                let at = chance.random_range(0..list.len());
                match chance.random_range(0..8) {
                    0 => drop(list.remove(at)),
                    1 => list.insert(at, list[at].clone()),
                    2 => {
                        let other = chance.random_range(0..list.len());
                        list.swap(at, other);
                    }
                    _ => self.json(chance, &mut list[at]),
                }
            }
            value => *value = self.value(chance, 2),
        }
    }

    /// Changes a few places of bytes.
    pub fn bytes(&self, chance: &mut SmallRng, base: &[u8]) -> Vec<u8> {
        let mut bytes = base.to_vec();
        for _ in 0..chance.random_range(1..6) {
            if bytes.is_empty() {
                break;
            }
            let at = chance.random_range(0..bytes.len());
            let to = chance.random_range(at..(at + 40).min(bytes.len()) + 1);
            match chance.random_range(0..6) {
                0 => bytes[at] ^= 1 << chance.random_range(0..8),
                1 => bytes[at] = chance.random(),
                2 => drop(bytes.drain(at..to)),
                3 => {
                    let piece = bytes[at..to].to_vec();
                    let place = chance.random_range(0..bytes.len());
                    bytes.splice(place..place, piece);
                }
                4 => bytes.truncate(at),
                _ => {
                    let pieces: [&[u8]; 6] = [b"\n\n", b"\r\n", b"data: ", b"{", b"\"", b"\0"];
                    let piece = pieces[chance.random_range(0..pieces.len())];
                    bytes.splice(at..at, piece.iter().copied());
                }
            }
        }
        bytes
    }

    /// Changes, doubles, drops and swaps the events of an answer, whose framing stays whole.
    pub fn events(&self, chance: &mut SmallRng, wire: Wire, base: &[u8]) -> Vec<u8> {
        let mut events = seen::events(wire, base);
        for _ in 0..chance.random_range(1..4) {
            if events.is_empty() {
                break;
            }
            let at = chance.random_range(0..events.len());
            match chance.random_range(0..10) {
                0 if wire != Wire::Body => drop(events.remove(at)),
                1 if wire != Wire::Body => {
                    let again = Happened {
                        name: events[at].name.clone(),
                        data: events[at].data.clone(),
                    };
                    let place = chance.random_range(0..events.len());
                    events.insert(place, again);
                }
                2 => {
                    let other = chance.random_range(0..events.len());
                    events.swap(at, other);
                }
                _ => self.json(chance, &mut events[at].data),
            }
        }
        framed(wire, &events)
    }
}

fn learn(value: &Value, names: &mut Vec<String>, values: &mut Vec<Value>) {
    match value {
        Value::Object(map) => {
            for (name, value) in map {
                if !names.contains(name) {
                    names.push(name.clone());
                }
                learn(value, names, values);
            }
        }
        Value::Array(list) => list.iter().for_each(|it| learn(it, names, values)),
        _ => {}
    }
    if !values.contains(value) && values.len() < 2000 {
        values.push(value.clone());
    }
}

fn framed(wire: Wire, events: &[Happened]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for Happened { name, data } in events {
        let text = match data {
            Value::String(word) if word == "[DONE]" => word.clone(),
            data => data.to_string(),
        };
        match wire {
            Wire::Body => return text.into_bytes(),
            Wire::Lines => bytes.extend_from_slice(format!("{text}\n").as_bytes()),
            Wire::Events => {
                if !name.is_empty() {
                    bytes.extend_from_slice(format!("event: {name}\n").as_bytes());
                }
                bytes.extend_from_slice(format!("data: {text}\n\n").as_bytes());
            }
            Wire::Frames => frame("event", name, text.as_bytes(), &mut bytes),
        }
    }
    bytes
}

/// A message of Amazon's event stream, of the kind `event` or `exception`; nobody here reads its checksums.
pub fn frame(kind: &str, name: &str, payload: &[u8], bytes: &mut Vec<u8>) {
    let mut headers = Vec::new();
    let of_kind = format!(":{kind}-type");
    for (key, value) in [(&*of_kind, name), (":message-type", kind)] {
        headers.push(u8::try_from(key.len()).expect("a short name"));
        headers.extend_from_slice(key.as_bytes());
        headers.push(7);
        let length = u16::try_from(value.len()).expect("a short value");
        headers.extend_from_slice(&length.to_be_bytes());
        headers.extend_from_slice(value.as_bytes());
    }
    let number = |length: usize| {
        u32::try_from(length)
            .expect("a short message")
            .to_be_bytes()
    };
    bytes.extend_from_slice(&number(16 + headers.len() + payload.len()));
    bytes.extend_from_slice(&number(headers.len()));
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&headers);
    bytes.extend_from_slice(payload);
    bytes.extend_from_slice(&[0; 4]);
}
