//! SOCKS 5 (RFC 1928) with user and password (RFC 1929): asks a proxy for a connection.
//!
//! Each answer is read to its last byte and not beyond, so that the next byte is the endpoint's.
//! `connect` calls [`greet`], which is about the proxy alone, and then [`ask`].
//!
//! ```text
//!   methods ─▶ ◀─ one of them ─┬─ none ─────────────────────────────┬─▶ CONNECT ─▶ ◀─ reply
//!                              └─ password ─▶ ◀─ taken, or the end ─┘
//! ```

use std::io;
use std::net::IpAddr;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::error::{Fault, Said};
use super::settings::Login;

const VERSION: u8 = 5;
const NO_METHOD: u8 = 0;
const PASSWORD: u8 = 2;
const NONE_ACCEPTED: u8 = 0xff;
/// Of RFC 1929's own negotiation.
const PASSWORD_VERSION: u8 = 1;
const CONNECT: u8 = 1;
const IPV4: u8 = 1;
const NAME: u8 = 3;
const IPV6: u8 = 4;
/// "Connection not allowed by ruleset".
const NOT_ALLOWED: u8 = 2;

/// What the proxy is given to connect to.
#[derive(Clone, Copy, Debug)]
pub(super) enum Place<'a> {
    /// An address.
    Address(IpAddr),
    /// A name that the proxy resolves; 1 to 255 bytes, as a host's name is.
    Name(&'a str),
}

/// Agrees on the version and is let in. Takes as long as the proxy does; safe to drop with the stream.
pub(super) async fn greet<S>(stream: &mut S, login: Option<&Login>) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let greeting: &[u8] = match login {
        Some(_) => &[VERSION, 2, NO_METHOD, PASSWORD],
        None => &[VERSION, 1, NO_METHOD],
    };
    stream.write_all(greeting).await.map_err(closed)?;
    let [version, method] = read(stream).await?;
    if version != VERSION {
        return Err(Fault::Broken(NOT_SOCKS));
    }
    match (method, login) {
        (NO_METHOD, _) => Ok(()),
        (PASSWORD, Some(login)) => authenticate(stream, login).await,
        (NONE_ACCEPTED, _) => Err(Fault::Credentials),
        _ => Err(Fault::Broken("it chose a method that it wasn't offered")),
    }
}

/// Asks for a connection, after [`greet`]. Takes as long as the proxy does, which connects to the place
/// meanwhile; safe to drop with the stream.
pub(super) async fn ask<S>(stream: &mut S, place: Place<'_>, port: u16) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request = request(place, port);
    stream.write_all(&request).await.map_err(closed)?;
    reply(stream).await
}

async fn authenticate<S>(stream: &mut S, login: &Login) -> Result<(), Fault>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut message = vec![PASSWORD_VERSION];
    for part in [&login.user, &login.password] {
        let length = u8::try_from(part.len()).map_err(|_| Fault::Credentials)?;
        message.push(length);
        message.extend_from_slice(part);
    }
    stream.write_all(&message).await.map_err(closed)?;
    // RFC 1929: the server closes the connection after a refusal; some close it instead of one.
    let mut answer = [0; 2];
    match stream.read_exact(&mut answer).await {
        Ok(_) if answer[1] == 0 => Ok(()),
        Ok(_) => Err(Fault::Credentials),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(Fault::Credentials),
        Err(error) => Err(closed(error)),
    }
}

fn request(place: Place<'_>, port: u16) -> Vec<u8> {
    let mut request = vec![VERSION, CONNECT, 0];
    match place {
        Place::Address(IpAddr::V4(ip)) => {
            request.push(IPV4);
            request.extend_from_slice(&ip.octets());
        }
        Place::Address(IpAddr::V6(ip)) => {
            request.push(IPV6);
            request.extend_from_slice(&ip.octets());
        }
        Place::Name(name) => {
            let length = u8::try_from(name.len()).expect("a host's name has at most 253 bytes");
            request.extend([NAME, length]);
            request.extend_from_slice(name.as_bytes());
        }
    }
    request.extend_from_slice(&port.to_be_bytes());
    request
}

async fn reply<S: AsyncRead + Unpin>(stream: &mut S) -> Result<(), Fault> {
    let [version, reply, _reserved, kind] = read(stream).await?;
    if version != VERSION {
        return Err(Fault::Broken(NOT_SOCKS));
    }
    match reply {
        0 => {}
        NOT_ALLOWED => return Err(Fault::Denied(Said::Reply(reply))),
        _ => return Err(Fault::Failed(Said::Reply(reply))),
    }
    // The address that the proxy connects from: of no interest, but its bytes must go.
    let length = match kind {
        IPV4 => 4,
        IPV6 => 16,
        NAME => {
            let [length] = read(stream).await?;
            usize::from(length)
        }
        _ => return Err(Fault::Broken(NOT_SOCKS)),
    };
    let mut rest = [0; 255 + 2];
    let rest = &mut rest[..length + 2];
    stream.read_exact(rest).await.map_err(closed)?;
    Ok(())
}

const NOT_SOCKS: &str = "its answer is not SOCKS 5";

async fn read<const COUNT: usize, S>(stream: &mut S) -> Result<[u8; COUNT], Fault>
where
    S: AsyncRead + Unpin,
{
    let mut bytes = [0; COUNT];
    stream.read_exact(&mut bytes).await.map_err(closed)?;
    Ok(bytes)
}

fn closed(_: io::Error) -> Fault {
    Fault::Broken("it closed the connection in the middle of SOCKS")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is written, and what becomes of it, when the proxy answers with these bytes.
    async fn talk(
        place: Place<'_>,
        login: Option<&Login>,
        answers: &[u8],
    ) -> (Vec<u8>, Result<(), Fault>, Vec<u8>) {
        let (mut ours, mut theirs) = tokio::io::duplex(4096);
        theirs.write_all(answers).await.expect("room");
        let result = {
            // The proxy says no more.
            let (read, mut write) = tokio::io::split(theirs);
            write.shutdown().await.expect("open");
            let result = match greet(&mut ours, login).await {
                Ok(()) => ask(&mut ours, place, 443).await,
                refused => refused,
            };
            theirs = read.unsplit(write);
            result
        };
        let mut rest = Vec::new();
        ours.read_to_end(&mut rest).await.expect("open");
        drop(ours);
        let mut written = Vec::new();
        theirs.read_to_end(&mut written).await.expect("open");
        (written, result, rest)
    }

    fn login() -> Login {
        Login {
            user: b"me".to_vec(),
            password: b"pw".to_vec(),
        }
    }

    const GOOD: &[u8] = &[5, 0, 0, 1, 0, 0, 0, 0, 0, 0];

    #[tokio::test]
    async fn each_place_is_written_as_the_rfc_says() {
        let answers = [&[5, 0], GOOD].concat();
        for (place, bytes) in [
            (
                Place::Address([192, 0, 2, 1].into()),
                &[1, 192, 0, 2, 1][..],
            ),
            (
                Place::Address("2001:db8::1".parse().expect("an IP")),
                &[4, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
            ),
            (Place::Name("a.test"), b"\x03\x06a.test"),
        ] {
            let (written, result, _) = talk(place, None, &answers).await;
            assert_eq!(result, Ok(()), "{place:?}");
            let expected = [&[5, 1, 0, 5, 1, 0], bytes, &[1, 187]].concat();
            assert_eq!(written, expected, "{place:?}");
        }
    }

    #[tokio::test]
    async fn credentials_are_shown_to_a_proxy_that_wants_them_and_to_no_other() {
        let place = Place::Name("a.test");
        let wants = [&[5, 2, 1, 0], GOOD].concat();
        let (written, result, _) = talk(place, Some(&login()), &wants).await;
        assert_eq!(result, Ok(()));
        assert!(written.starts_with(b"\x05\x02\x00\x02\x01\x02me\x02pw\x05\x01\x00\x03"));
        let waives = [&[5, 0], GOOD].concat();
        let (written, result, _) = talk(place, Some(&login()), &waives).await;
        assert_eq!(result, Ok(()));
        assert!(!written.windows(2).any(|two| two == b"pw"), "{written:?}");
    }

    #[tokio::test]
    async fn a_reply_is_read_to_its_last_byte_and_not_beyond() {
        for reply in [
            GOOD,
            &[
                5, 0, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7, 7,
            ],
            b"\x05\x00\x00\x03\x04name\x00\x50",
            b"\x05\x00\x00\x03\x00\x00\x50",
        ] {
            let answers = [&[5, 0], reply, b"the endpoint's"].concat();
            let (_, result, rest) = talk(Place::Name("a.test"), None, &answers).await;
            assert_eq!(result, Ok(()), "{reply:?}");
            assert_eq!(rest, b"the endpoint's", "{reply:?}");
        }
    }

    #[tokio::test]
    async fn each_no_has_its_own_fault() {
        let user = login();
        let refused = |reply| [5, 0, 5, reply, 0, 1, 0, 0, 0, 0, 0, 0].to_vec();
        let broken = |result| matches!(result, Err(Fault::Broken(_)));
        for (login, answers, fault) in [
            (None, vec![5, 0xff], Fault::Credentials),
            (Some(&user), vec![5, 0xff], Fault::Credentials),
            (Some(&user), vec![5, 2, 1, 1], Fault::Credentials),
            (Some(&user), vec![5, 2], Fault::Credentials),
            (None, refused(1), Fault::Failed(Said::Reply(1))),
            (None, refused(2), Fault::Denied(Said::Reply(2))),
            (None, refused(5), Fault::Failed(Said::Reply(5))),
            (None, refused(200), Fault::Failed(Said::Reply(200))),
        ] {
            let (_, result, _) = talk(Place::Name("a.test"), login, &answers).await;
            assert_eq!(result, Err(fault), "{answers:?}");
        }
        for answers in [
            &b""[..],
            b"\x05",
            b"\x04\x00",
            b"\x05\x02",
            b"\x05\x01",
            b"HTTP/1.1 400 Bad Request\r\n\r\n",
            b"\x05\x00",
            b"\x05\x00\x05\x00\x00",
            b"\x05\x00\x04\x00\x00\x01\x00\x00\x00\x00\x00\x00",
            b"\x05\x00\x05\x00\x00\x02\x00\x00\x00\x00\x00\x00",
            b"\x05\x00\x05\x00\x00\x01\x00\x00\x00\x00\x00",
        ] {
            let (_, result, _) = talk(Place::Name("a.test"), None, answers).await;
            assert!(broken(result), "{answers:?}: {result:?}");
        }
    }

    #[tokio::test]
    async fn the_longest_user_and_password_fit() {
        let login = Login {
            user: vec![b'u'; 255],
            password: vec![b'p'; 255],
        };
        let answers = [&[5, 2, 1, 0], GOOD].concat();
        let (written, result, _) = talk(Place::Name("a.test"), Some(&login), &answers).await;
        assert_eq!(result, Ok(()));
        let password = &written[4 + 2 + 255..][..256];
        assert_eq!((password[0], &password[1..]), (255, &[b'p'; 255][..]));
    }
}
