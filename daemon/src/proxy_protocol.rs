//! The header that a TCP balancer puts before a client's bytes, to say where the client is: the PROXY
//! protocol of HAProxy, version 1 (a line of text) and version 2 (binary).
//!
//! A header is read only from proxies that the settings list, and these must send one. From any other
//! address the same bytes are the client's own. Pure but for [`read`].
//!
//! # What bounds it
//!
//! Memory: [`HEADER_LEN_MAX`] bytes. Time: the caller's.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// The longest header that is taken: version 2 may carry more than addresses.
pub const HEADER_LEN_MAX: usize = 4096;

/// The longest line of version 1, its end included.
const LINE_LEN_MAX: usize = 107;

const LINE_BEGIN: &[u8] = b"PROXY ";
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// The part of a header of version 2 that has a fixed length.
const FIXED_LEN: usize = 16;

/// What was found at the beginning of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// A header may have begun; more bytes are needed to tell.
    Part,
    /// A header of so many bytes. `None` where the proxy speaks for itself, as in a health check, or
    /// does not know: then its own address counts.
    Header(usize, Option<SocketAddr>),
}

/// These bytes begin no header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a header of the PROXY protocol")]
pub struct NotAHeader;

/// Why a connection of a proxy cannot be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HeaderError {
    /// These bytes begin no header.
    #[error(transparent)]
    Malformed(#[from] NotAHeader),
    /// It ended before its header did, or broke.
    #[error("gone before the header was complete")]
    Io(#[from] io::Error),
}

/// Looks for a header at the beginning of `bytes`.
pub fn parse(bytes: &[u8]) -> Result<Found, NotAHeader> {
    if begins(bytes, SIGNATURE) {
        return parse_binary(bytes);
    }
    if begins(bytes, LINE_BEGIN) {
        return parse_line(bytes);
    }
    Err(NotAHeader)
}

/// Whether `bytes` begin with `mark`, as far as both go.
fn begins(bytes: &[u8], mark: &[u8]) -> bool {
    bytes.iter().zip(mark).all(|(byte, mark)| byte == mark)
}

fn parse_line(bytes: &[u8]) -> Result<Found, NotAHeader> {
    let line = bytes.get(..LINE_LEN_MAX).unwrap_or(bytes);
    let end = line.windows(2).position(|pair| pair == b"\r\n");
    // The end of a line may have come by half.
    let text = end.and_then(|end| line.get(..end)).unwrap_or(line);
    let text = if end.is_none() { text.strip_suffix(b"\r").unwrap_or(text) } else { text };
    let text = str::from_utf8(text).map_err(|_binary| NotAHeader)?;
    if !text.bytes().all(|byte| (b' '..=b'~').contains(&byte)) {
        return Err(NotAHeader);
    }
    let Some(end) = end else {
        return if bytes.len() < LINE_LEN_MAX { Ok(Found::Part) } else { Err(NotAHeader) };
    };
    let mut words = text.split(' ').skip(1);
    let source = match words.next() {
        // Whatever else such a line says does not count.
        Some("UNKNOWN") => return Ok(Found::Header(end + 2, None)),
        Some("TCP4") => addresses::<Ipv4Addr>(&mut words)?,
        Some("TCP6") => addresses::<Ipv6Addr>(&mut words)?,
        _ => return Err(NotAHeader),
    };
    if words.next().is_some() {
        return Err(NotAHeader);
    }
    Ok(Found::Header(end + 2, Some(source)))
}

/// Reads the source's address, the destination's, and both ports.
fn addresses<'a, A>(words: &mut impl Iterator<Item = &'a str>) -> Result<SocketAddr, NotAHeader>
where
    A: str::FromStr + Into<IpAddr>,
{
    let mut address = || words.next()?.parse::<A>().ok();
    let (source, _destination) = (address().ok_or(NotAHeader)?, address().ok_or(NotAHeader)?);
    let mut port = || {
        let digits = words.next().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit()))?;
        digits.parse::<u16>().ok()
    };
    let (source_port, _destination_port) = (port().ok_or(NotAHeader)?, port().ok_or(NotAHeader)?);
    Ok(SocketAddr::new(source.into(), source_port))
}

fn parse_binary(bytes: &[u8]) -> Result<Found, NotAHeader> {
    let Some(&[version_and_command, family, high, low]) =
        bytes.get(SIGNATURE.len()..FIXED_LEN).and_then(|fixed| fixed.first_chunk::<4>())
    else {
        return Ok(Found::Part);
    };
    let len = FIXED_LEN + usize::from(u16::from_be_bytes([high, low]));
    let is_local = match version_and_command {
        0x20 => true,
        0x21 => false,
        _ => return Err(NotAHeader),
    };
    if len > HEADER_LEN_MAX {
        return Err(NotAHeader);
    }
    let Some(rest) = bytes.get(FIXED_LEN..len) else { return Ok(Found::Part) };
    if is_local {
        return Ok(Found::Header(len, None));
    }
    let source = match family {
        // TCP over IPv4: two addresses, two ports.
        0x11 => {
            let &[a, b, c, d, _, _, _, _, high, low, _, _] =
                rest.first_chunk::<12>().ok_or(NotAHeader)?;
            let ip = IpAddr::from([a, b, c, d]);
            Some(SocketAddr::new(ip, u16::from_be_bytes([high, low])))
        }
        // TCP over IPv6.
        0x21 => {
            let ip: [u8; 16] = *rest.first_chunk().ok_or(NotAHeader)?;
            let ports: [u8; 4] =
                *rest.get(32..36).and_then(|ports| ports.first_chunk()).ok_or(NotAHeader)?;
            let [high, low, _, _] = ports;
            Some(SocketAddr::new(IpAddr::from(ip), u16::from_be_bytes([high, low])))
        }
        // Not known, or a socket of the proxy's own machine.
        0x00 | 0x31 => None,
        _ => return Err(NotAHeader),
    };
    Ok(Found::Header(len, source))
}

/// Reads the header of a connection, and nothing of what follows it. Not cancel-safe: a part of the
/// header may be lost, so drop the socket too.
pub(crate) async fn read(socket: &mut TcpStream) -> Result<Option<SocketAddr>, HeaderError> {
    let mut header = Vec::with_capacity(128);
    let mut look = [0; 512];
    loop {
        // What is only looked at stays in the kernel: what is behind the header is the client's.
        let seen = socket.peek(&mut look).await?;
        if seen == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let before = header.len();
        header.extend_from_slice(look.get(..seen).unwrap_or_default());
        let found = parse(&header)?;
        let len = match found {
            Found::Part => header.len(),
            Found::Header(len, _source) => len,
        };
        let taken = look.get_mut(..len.saturating_sub(before)).ok_or(NotAHeader)?;
        socket.read_exact(taken).await?;
        if let Found::Header(_len, source) = found {
            return Ok(source);
        }
    }
}

#[cfg(test)]
mod tests;
