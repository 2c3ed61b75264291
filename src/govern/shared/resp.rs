//! Redis' protocol, version 2, without I/O: commands to bytes, bytes to replies. Never takes a reply
//! that is longer or deeper than its bounds. Called by `link`.

use std::fmt;

/// The longest reply, bytes: all keys of many teams at once.
const REPLY_BYTES_MAX: usize = 16 << 20;
/// Lists within lists.
const DEPTH_MAX: usize = 4;

/// A reply.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Reply {
    /// A text of one line, or bytes.
    Text(Vec<u8>),
    Number(i64),
    List(Vec<Reply>),
    Nothing,
    /// What the server says is wrong: `WORD and a sentence`.
    Error(String),
}

/// What was received is no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed(&'static str);

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "no reply of Redis: {}", self.0)
    }
}

/// Appends a command.
pub(super) fn command(into: &mut Vec<u8>, words: &[&[u8]]) {
    into.extend_from_slice(format!("*{}\r\n", words.len()).as_bytes());
    for word in words {
        into.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        into.extend_from_slice(word);
        into.extend_from_slice(b"\r\n");
    }
}

/// The reply at the beginning of `bytes` and its length; `None` when it isn't whole yet.
pub(super) fn reply(bytes: &[u8]) -> Result<Option<(Reply, usize)>, Malformed> {
    let mut at = 0;
    match one(bytes, &mut at, 0) {
        Ok(reply) => Ok(Some((reply, at))),
        Err(Stop::Short) if bytes.len() > REPLY_BYTES_MAX => Err(Malformed("it is too long")),
        Err(Stop::Short) => Ok(None),
        Err(Stop::Malformed(why)) => Err(Malformed(why)),
    }
}

enum Stop {
    Short,
    Malformed(&'static str),
}

fn one(bytes: &[u8], at: &mut usize, depth: usize) -> Result<Reply, Stop> {
    let line = line(bytes, at)?;
    let (kind, rest) = line.split_first().ok_or(Stop::Malformed("an empty line"))?;
    match kind {
        b'+' => Ok(Reply::Text(rest.to_vec())),
        b'-' => Ok(Reply::Error(String::from_utf8_lossy(rest).into_owned())),
        b':' => Ok(Reply::Number(number(rest)?)),
        b'$' => {
            let Some(length) = length(rest)? else {
                return Ok(Reply::Nothing);
            };
            let end = *at + length;
            let text = bytes.get(*at..end).ok_or(Stop::Short)?;
            match bytes.get(end..end + 2) {
                Some(b"\r\n") => {}
                Some(_) => return Err(Stop::Malformed("a text that goes on past its length")),
                None => return Err(Stop::Short),
            }
            *at = end + 2;
            Ok(Reply::Text(text.to_vec()))
        }
        b'*' => {
            let Some(length) = length(rest)? else {
                return Ok(Reply::Nothing);
            };
            if depth >= DEPTH_MAX {
                return Err(Stop::Malformed("lists within lists within lists"));
            }
            // As many as are there, not as many as are said.
            let mut list = Vec::new();
            for _ in 0..length {
                list.push(one(bytes, at, depth + 1)?);
            }
            Ok(Reply::List(list))
        }
        _ => Err(Stop::Malformed("a kind that isn't known")),
    }
}

fn line<'b>(bytes: &'b [u8], at: &mut usize) -> Result<&'b [u8], Stop> {
    let rest = &bytes[*at..];
    let end = memchr::memchr(b'\r', rest).ok_or(Stop::Short)?;
    match rest.get(end + 1) {
        Some(b'\n') => {}
        Some(_) => return Err(Stop::Malformed("a line that doesn't end")),
        None => return Err(Stop::Short),
    }
    *at += end + 2;
    Ok(&rest[..end])
}

fn number(text: &[u8]) -> Result<i64, Stop> {
    let text = std::str::from_utf8(text).ok();
    text.and_then(|text| text.parse().ok())
        .ok_or(Stop::Malformed("a number that is none"))
}

/// `None` stands for nothing at all.
fn length(text: &[u8]) -> Result<Option<usize>, Stop> {
    let length = number(text)?;
    if length == -1 {
        return Ok(None);
    }
    usize::try_from(length)
        .ok()
        .filter(|length| *length <= REPLY_BYTES_MAX)
        .map(Some)
        .ok_or(Stop::Malformed("a length that can't be"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_a_list_of_texts() {
        let mut bytes = Vec::new();
        command(&mut bytes, &[b"AUTH", b"p\r\nss"]);
        assert_eq!(bytes, b"*2\r\n$4\r\nAUTH\r\n$5\r\np\r\nss\r\n");
    }

    #[test]
    fn a_reply_is_read_whole_or_not_at_all_wherever_it_is_cut() {
        let bytes = b"*5\r\n:-7\r\n$3\r\na\r\n\r\n$-1\r\n+OK\r\n*1\r\n-ERR no\r\n";
        let expected = Reply::List(vec![
            Reply::Number(-7),
            Reply::Text(b"a\r\n".to_vec()),
            Reply::Nothing,
            Reply::Text(b"OK".to_vec()),
            Reply::List(vec![Reply::Error("ERR no".into())]),
        ]);
        for cut in 0..bytes.len() {
            assert_eq!(reply(&bytes[..cut]), Ok(None), "cut at {cut}");
        }
        let more = [bytes.as_slice(), b":1\r\n"].concat();
        assert_eq!(reply(&more), Ok(Some((expected, bytes.len()))));
    }

    #[test]
    fn what_is_no_reply_is_refused_at_once() {
        for bytes in [
            b"HTTP/1.1 400 Bad Request\r\n".as_slice(),
            b"\r\n",
            b":x\r\n",
            b"$-2\r\n",
            b"$99999999999\r\n",
            b"*99999999999\r\n",
            b"$1\r\nabc\r\n",
            b"+a\rb\r\n",
            b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n:1\r\n",
        ] {
            assert!(reply(bytes).is_err(), "{bytes:?}");
        }
        let endless = vec![b'+'; REPLY_BYTES_MAX + 1];
        assert!(reply(&endless).is_err());
    }
}
