//! Why there is no answer: asks each address one question that every broker answers before it asks for
//! a login.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

/// How long one address may take to answer.
const LIMIT: Duration = Duration::from_secs(2);

const USUAL_PORT: u16 = 9092;

/// Which versions of which requests does the broker know (ApiVersions, version 0): key, version,
/// number, and no name.
const QUESTION: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0x54, 0x4b, 0x48, 0x42, 0xff, 0xff];

/// The answer repeats the number that came with the question.
const NUMBER: [u8; 4] = [0x54, 0x4b, 0x48, 0x42];

/// What is at an address.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// A broker.
    Kafka,
    /// Something else.
    NotKafka,
    /// Nothing, with the reason.
    Nobody(String),
}

/// Asks every address of `bootstrap`.
pub(super) fn ask_all(bootstrap: &str) -> Vec<(String, Answer)> {
    let addresses = bootstrap.split(',').map(str::trim).filter(|address| !address.is_empty());
    addresses.map(|address| (address.to_owned(), ask(address))).collect()
}

fn ask(address: &str) -> Answer {
    // `PLAINTEXT://host:port` is allowed as well.
    let place = address.split_once("://").map_or(address, |(_protocol, place)| place);
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = if has_port { place.to_owned() } else { format!("{place}:{USUAL_PORT}") };
    let mut stream = match connect(&place) {
        Ok(stream) => stream,
        Err(error) => return Answer::Nobody(error.to_string()),
    };
    match exchange(&mut stream) {
        Ok(true) => Answer::Kafka,
        Ok(false) => Answer::NotKafka,
        Err(error) if is_silence(&error) => Answer::Nobody("it does not answer".to_owned()),
        // It closed the connection instead of answering.
        Err(_closed) => Answer::NotKafka,
    }
}

fn connect(place: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in place.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, LIMIT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Whether the answer is a broker's.
fn exchange(stream: &mut TcpStream) -> io::Result<bool> {
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    stream.write_all(&QUESTION)?;
    let mut head = [0; 8];
    stream.read_exact(&mut head)?;
    Ok(head[4..] == NUMBER)
}

fn is_silence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// What is found at a server that reads the question and answers so.
    fn answered(answer: &'static [u8]) -> Answer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = thread::spawn(move || {
            let (mut stream, _from) = listener.accept().unwrap();
            stream.read_exact(&mut [0; QUESTION.len()]).unwrap();
            stream.write_all(answer).unwrap();
        });
        let (asked, found) = ask_all(&address).pop().unwrap();
        assert_eq!(asked, address);
        server.join().unwrap();
        found
    }

    #[test]
    fn a_broker_repeats_the_number() {
        assert_eq!(answered(b"\0\0\0\x06TKHB\0\0"), Answer::Kafka);
    }

    #[test]
    fn a_server_that_answers_something_else_is_no_broker() {
        assert_eq!(answered(b"-ERR unknown command\r\n"), Answer::NotKafka);
        assert_eq!(answered(b""), Answer::NotKafka);
    }

    #[test]
    fn no_broker_is_at_a_port_without_a_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let answers = ask_all(&format!("{address}, PLAINTEXT://{address}"));
        assert_eq!(answers.len(), 2);
        for (_address, answer) in answers {
            let Answer::Nobody(why) = answer else { panic!("nobody is there: {answer:?}") };
            assert!(why.contains("refused"), "{why}");
        }
    }
}
