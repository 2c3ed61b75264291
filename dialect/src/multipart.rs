//! Finds the fields of a `multipart/form-data` body (RFC 7578) that weir must know: `model` and
//! `stream`, and how much of what it sends. Everything else, what is in files above all, is skipped. Called by `proxy` with the body of
//! an upload, whose model's name is then replaced at its place.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem;

use crate::{json, replaced};

/// A longer header section of a part is refused.
pub const PART_HEADER_BYTES_MAX: usize = 16 * 1024;
/// More parts than this are refused.
pub const PARTS_MAX: usize = 1024;
/// RFC 2046, section 5.1.1.
const BOUNDARY_BYTES_MAX: usize = 70;

/// What a form asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Form {
    /// The model's name, if a field gives one.
    pub model: Option<String>,
    /// Where that name stands in the body.
    pub model_at: Range<usize>,
    /// The field `stream` says `true`.
    pub stream: bool,
    /// How many answers are asked for (`n`).
    pub choices: Option<u64>,
    /// Where the content of the first `file` stands; empty without one.
    pub file_at: Range<usize>,
    /// What is meant isn't in it: an address says where that lies.
    pub elsewhere: bool,
    /// How many pictures there are (`image`, `image[]`, `mask`).
    pub pictures: u64,
}

/// Why a form can't be understood safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FormError {
    /// The boundary is empty, too long, or has characters that no boundary may have.
    Boundary,
    /// The body breaks the format at this byte.
    Malformed { at: usize, what: &'static str },
    /// A field that decides something is there twice.
    DuplicateField(&'static str),
    /// The field must be text.
    NotText(&'static str),
}

/// The boundary in the value of a `Content-Type` header; `None` when it is no form.
pub fn boundary(content_type: &str) -> Option<String> {
    let (kind, rest) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameter(rest.as_bytes(), b"boundary").and_then(|value| String::from_utf8(value).ok())
}

/// Reads a whole body. Parts without a name are skipped; what stands before the first and after
/// the last delimiter is ignored, as the RFC asks.
pub fn read(body: &[u8], boundary: &str) -> Result<Form, FormError> {
    let good = |byte: u8| byte.is_ascii_alphanumeric() || b"'()+_,-./:=? ".contains(&byte);
    let length = 1..=BOUNDARY_BYTES_MAX;
    if !length.contains(&boundary.len()) || !boundary.bytes().all(good) || boundary.ends_with(' ') {
        return Err(FormError::Boundary);
    }
    // To a reader that stops at the end of a value the body is another one.
    if matches!(body.trim_ascii_start(), [b'{' | b'[', ..]) {
        return Err(FormError::Malformed {
            at: 0,
            what: "JSON before the first delimiter",
        });
    }
    let mut form = Form::default();
    let mut seen_stream = false;
    let delimiter = format!("\r\n--{boundary}");
    let finder = memmem::Finder::new(delimiter.as_bytes());
    let mut at = match body.starts_with(&delimiter.as_bytes()[2..]) {
        true => delimiter.len() - 2,
        false => find(&finder, body, 0)? + delimiter.len(),
    };
    for _ in 0..PARTS_MAX {
        if body[at..].starts_with(b"--") {
            return Ok(form);
        }
        let headers = line_end(body, at)?;
        let (name, start) = part_name(body, headers)?;
        // An empty part's delimiter begins with the line end of its header section.
        let found = find(&finder, body, start - 2)?;
        let content = start..found.max(start);
        match name.as_deref() {
            Some(b"model") => {
                if form.model.is_some() {
                    return Err(FormError::DuplicateField("model"));
                }
                let text = std::str::from_utf8(&body[content.clone()]);
                form.model = Some(text.map_err(|_| FormError::NotText("model"))?.to_owned());
                form.model_at = content;
            }
            Some(b"stream") => {
                if std::mem::replace(&mut seen_stream, true) {
                    return Err(FormError::DuplicateField("stream"));
                }
                form.stream = body[content].trim_ascii().eq_ignore_ascii_case(b"true");
            }
            Some(b"n") => {
                let number = json::whole(body[content].trim_ascii());
                form.choices = form.choices.max(number);
            }
            Some(b"file") => {
                form.elsewhere |= is_address(&body[content.clone()]);
                if form.file_at.is_empty() {
                    form.file_at = content;
                }
            }
            Some(b"url" | b"file_url" | b"audio_url") => form.elsewhere |= !content.is_empty(),
            Some(b"image" | b"image[]" | b"mask") => form.pictures += 1,
            _ => {}
        }
        at = found + delimiter.len();
    }
    Err(FormError::Malformed {
        at,
        what: "too many parts",
    })
}

/// Whether a field that should be a file is an address instead.
fn is_address(content: &[u8]) -> bool {
    const SCHEME_BYTES_MAX: usize = 16;
    let start = content.trim_ascii_start();
    let start = &start[..start.len().min(SCHEME_BYTES_MAX)];
    memmem::find(start, b"://").is_some()
}

// === impl Form ===

impl Form {
    /// The body for the upstream, with `model` as the model's name, if given. `body` must be the
    /// one that was read. Without a change it is returned itself.
    pub fn edited(&self, body: &Bytes, model: Option<&str>) -> Bytes {
        let edit = match (model, &self.model) {
            (Some(model), Some(named)) if named != model => {
                Some((self.model_at.clone(), model.to_owned()))
            }
            _ => None,
        };
        replaced(body, edit.into_iter())
    }
}

fn find(finder: &memmem::Finder<'_>, body: &[u8], from: usize) -> Result<usize, FormError> {
    let found = finder.find(&body[from..]).map(|found| from + found);
    found.ok_or(FormError::Malformed {
        at: body.len(),
        what: "a delimiter is missing",
    })
}

/// The offset after the rest of a delimiter's line, which may only be white space.
fn line_end(body: &[u8], at: usize) -> Result<usize, FormError> {
    let rest = &body[at..];
    let space = rest
        .iter()
        .position(|byte| !matches!(byte, b' ' | b'\t'))
        .unwrap_or(rest.len());
    match rest[space..].starts_with(b"\r\n") {
        true => Ok(at + space + 2),
        false => Err(FormError::Malformed {
            at: at + space,
            what: "a line must end here",
        }),
    }
}

/// The name of the part whose headers begin at `at`, and where its content begins.
fn part_name(body: &[u8], at: usize) -> Result<(Option<Vec<u8>>, usize), FormError> {
    let mut name = None;
    let mut line = at;
    loop {
        let window = &body[line..body.len().min(at + PART_HEADER_BYTES_MAX)];
        let len = memmem::find(window, b"\r\n").ok_or(FormError::Malformed {
            at: line,
            what: "a part's headers don't end",
        })?;
        let header = &window[..len];
        line += len + 2;
        if header.is_empty() {
            return Ok((name, line));
        }
        if matches!(header[0], b' ' | b'\t') {
            return Err(FormError::Malformed {
                at: line - len - 2,
                what: "a folded header",
            });
        }
        let Some(colon) = memchr::memchr(b':', header) else {
            return Err(FormError::Malformed {
                at: line - len - 2,
                what: "a header without colon",
            });
        };
        let (field, value) = header.split_at(colon);
        if field
            .trim_ascii()
            .eq_ignore_ascii_case(b"content-disposition")
        {
            if name.is_some() {
                return Err(FormError::DuplicateField("Content-Disposition"));
            }
            let parameters = memchr::memchr(b';', value).map_or(&[][..], |at| &value[at + 1..]);
            // Servers differ in how they read these, so that a model could hide behind them.
            let hides = parameter(parameters, b"name*").is_some();
            name = parameter(parameters, b"name");
            if hides || name.as_ref().is_some_and(|name| name.contains(&b'\\')) {
                return Err(FormError::Malformed {
                    at: line - len - 2,
                    what: "an ambiguous name",
                });
            }
        }
    }
}

/// The value of the first parameter `wanted` in `a=b; c="d"`, without its quotes. What can't be
/// told apart for certain (the parameter twice, a quote without end) gives a value with a
/// backslash, which no name or boundary may have.
fn parameter(mut text: &[u8], wanted: &[u8]) -> Option<Vec<u8>> {
    let mut found = None;
    while !text.is_empty() {
        let Some(equals) = memchr::memchr2(b'=', b';', text) else {
            break;
        };
        let name = text[..equals].trim_ascii();
        let separator = text[equals];
        text = &text[equals + 1..];
        if separator == b';' {
            continue;
        }
        let Some((value, rest)) = parameter_value(text) else {
            return Some(b"\\".to_vec());
        };
        if name.eq_ignore_ascii_case(wanted) && found.replace(value).is_some() {
            return Some(b"\\".to_vec());
        }
        text = rest;
    }
    found
}

/// A quoted or bare value, and what follows its semicolon.
fn parameter_value(text: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let text = text.trim_ascii_start();
    let Some(mut quoted) = text.strip_prefix(b"\"") else {
        let end = memchr::memchr(b';', text).unwrap_or(text.len());
        let rest = text.get(end + 1..).unwrap_or_default();
        return Some((text[..end].trim_ascii_end().to_vec(), rest));
    };
    let mut value = Vec::new();
    loop {
        match quoted {
            [b'"', rest @ ..] => {
                let end = memchr::memchr(b';', rest).map_or(rest.len(), |at| at + 1);
                return Some((value, &rest[end..]));
            }
            [b'\\', byte @ (b'"' | b'\\'), rest @ ..] => {
                value.push(*byte);
                quoted = rest;
            }
            // Browsers write a quote in a name as %22 and don't escape the percent sign: what is
            // written is taken as it is.
            [byte, rest @ ..] => {
                value.push(*byte);
                quoted = rest;
            }
            [] => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "Content-Disposition: form-data; name=\"file\"; \
        filename=\"a; name=\\\"model\\\".mp3\"\r\n\
        Content-Type: audio/mpeg\r\n\r\nID3\r\n--X-not\r\nname=\"model\"\r\n\r\nno";

    fn form(parts: &[&str]) -> String {
        let parts: String = parts
            .iter()
            .map(|part| format!("--XyZ\r\n{part}\r\n"))
            .collect();
        format!("{parts}--XyZ--\r\n")
    }

    fn field(name: &str, value: &str) -> String {
        format!("Content-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}")
    }

    #[test]
    fn the_model_is_found_between_files_and_its_place_is_given() {
        let body = form(&[FILE, &field("model", "whisper-1"), &field("stream", "true")]);
        let read = read(body.as_bytes(), "XyZ").unwrap();
        assert_eq!(read.model.as_deref(), Some("whisper-1"));
        assert_eq!(&body[read.model_at], "whisper-1");
        assert!(read.stream);
        let file = &body[read.file_at];
        assert!(
            file.starts_with("ID3") && file.ends_with("\r\nno"),
            "{file}"
        );
    }

    #[test]
    fn pictures_are_counted_and_so_is_what_is_asked_for() {
        let picture = |name| field(name, "PNG");
        let parts = [
            picture("image[]"),
            picture("image[]"),
            picture("mask"),
            field("n", " 3"),
        ];
        let body = form(&parts.each_ref().map(String::as_str));
        let read = read(body.as_bytes(), "XyZ").unwrap();
        assert_eq!((read.pictures, read.choices), (3, Some(3)));
        assert!(read.file_at.is_empty());
    }

    #[test]
    fn only_the_name_changes_when_the_model_is_mapped() {
        let body = form(&[&field("model", "a"), FILE]);
        let bytes = Bytes::copy_from_slice(body.as_bytes());
        let read = read(&bytes, "XyZ").unwrap();
        let expected = form(&[&field("model", "bcd"), FILE]);
        assert_eq!(read.edited(&bytes, Some("bcd")), expected);
        for same in [None, Some("a")] {
            assert_eq!(read.edited(&bytes, same).as_ptr(), bytes.as_ptr());
        }
    }

    #[test]
    fn names_are_read_as_servers_read_them() {
        for header in [
            "content-disposition:form-data;name=model",
            "Content-Type: a/b\r\nContent-Disposition: form-data ; x=\"a;b\" ; NAME = \"model\"",
        ] {
            let body = form(&[&format!("{header}\r\n\r\nm")]);
            let form = read(body.as_bytes(), "XyZ").expect(header);
            assert_eq!(form.model.as_deref(), Some("m"), "{header}");
        }
    }

    #[test]
    fn a_name_that_servers_may_read_differently_is_refused() {
        for parameters in [
            "name=\"mo\\del\"",
            "name=\"a\"; name=\"model\"",
            "name=\"a\"; name*=utf-8''model",
            "name=\"model",
        ] {
            let part = format!("Content-Disposition: form-data; {parameters}\r\n\r\nm");
            let read = read(form(&[&part]).as_bytes(), "XyZ");
            assert!(
                matches!(read, Err(FormError::Malformed { at: 7, .. })),
                "{parameters}"
            );
        }
    }

    #[test]
    fn preamble_epilogue_and_empty_parts_are_no_mistake() {
        let body = format!(
            "hello\r\n{}bye",
            form(&[&field("model", ""), &field("a", "\r\n")])
        );
        let read = read(body.as_bytes(), "XyZ").unwrap();
        assert_eq!(read.model.as_deref(), Some(""));
        assert!(read.model_at.is_empty() && !read.stream);
        assert_eq!(super::read(b"--XyZ--", "XyZ"), Ok(Form::default()));
    }

    #[test]
    fn fields_that_decide_may_not_come_twice() {
        for name in ["model", "stream"] {
            let body = form(&[&field(name, "a"), &field(name, "a")]);
            assert_eq!(
                read(body.as_bytes(), "XyZ"),
                Err(FormError::DuplicateField(name))
            );
        }
        let twice = format!(
            "{}\r\n{}",
            "Content-Disposition: a; name=x",
            field("model", "a")
        );
        let error = read(form(&[&twice]).as_bytes(), "XyZ");
        assert_eq!(error, Err(FormError::DuplicateField("Content-Disposition")));
    }

    #[test]
    fn every_cut_of_a_form_is_a_mistake_and_no_panic() {
        let body = form(&[FILE, &field("model", "m")]);
        for end in 0..body.len() - 4 {
            assert!(
                read(&body.as_bytes()[..end], "XyZ").is_err(),
                "cut at {end}"
            );
        }
    }

    #[test]
    fn hostile_parts_are_bounded() {
        let header = |len| format!("X: {}\r\n{}", "y".repeat(len), field("model", "m"));
        assert!(
            read(
                form(&[&header(PART_HEADER_BYTES_MAX - 100)]).as_bytes(),
                "XyZ"
            )
            .is_ok()
        );
        let long = form(&[&header(PART_HEADER_BYTES_MAX)]);
        assert!(matches!(
            read(long.as_bytes(), "XyZ"),
            Err(FormError::Malformed { at: 7, .. })
        ));
        let part = field("a", "b");
        let many = |count| form(&vec![&*part; count]);
        assert!(read(many(PARTS_MAX - 1).as_bytes(), "XyZ").is_ok());
        assert!(read(many(PARTS_MAX).as_bytes(), "XyZ").is_err());
        for headers in ["no colon", " folded: x", "a: b\r\n c"] {
            let body = form(&[&format!("{headers}\r\n\r\nx")]);
            assert!(read(body.as_bytes(), "XyZ").is_err(), "{headers}");
        }
        assert!(read(b"--XyZjunk\r\n\r\n\r\n--XyZ--", "XyZ").is_err());
        let binary = [b"--XyZ\r\nContent-Disposition: x; name=model\r\n\r\n\xff\r\n--XyZ--"];
        assert_eq!(read(binary[0], "XyZ"), Err(FormError::NotText("model")));
    }

    #[test]
    fn the_boundary_comes_from_the_header_and_is_checked() {
        let header = |rest: &str| boundary(&format!("Multipart/Form-Data{rest}"));
        assert_eq!(header("; boundary=XyZ").as_deref(), Some("XyZ"));
        assert_eq!(
            header("; charset=x; Boundary=\"a b\"").as_deref(),
            Some("a b")
        );
        assert_eq!(header(""), None);
        assert_eq!(boundary("text/plain; boundary=x"), None);
        for bad in ["", " ", "a\r\nb", "x ", &"x".repeat(71)] {
            assert_eq!(read(b"--x--", bad), Err(FormError::Boundary), "{bad:?}");
        }
    }
}
