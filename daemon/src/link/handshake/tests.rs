//! Handshakes in which one of the two is not what it says, or does not know the rules.
//!
//! Time is paused: it jumps to the limit when both wait for each other.

use std::time::Duration;

use tokio::io::{DuplexStream, duplex};
use tokio::time::timeout;

use super::super::identity::LinkKey;
use super::*;

fn named(role: Role, name: &str) -> Identity {
    Identity { role, name: name.to_owned(), boot: 7, key: LinkKey::new(b"key"), tls: None }
}

fn gateway() -> Identity {
    named(Role::MsgServer, "gateway")
}

fn store() -> Identity {
    named(Role::DbProxy, "store")
}

const LIMIT: Duration = Duration::from_secs(10);

/// What both ends make of each other, without TLS.
async fn meet(
    dialer: &Identity,
    listener: &Identity,
) -> (Result<Claim, HandshakeError>, Result<Claim, HandshakeError>) {
    let (mut near, mut far) = duplex(16 << 10);
    let plain = Channel::default();
    let dialing = async {
        let dialed = dial(&mut near, dialer, Role::DbProxy, &plain, |_claim| true).await;
        drop(near);
        dialed
    };
    let listening = async {
        let heard = listen(&mut far, listener, &[Role::MsgServer], &plain).await;
        drop(far);
        heard
    };
    let both = async { tokio::join!(dialing, listening) };
    timeout(LIMIT, both).await.expect("neither waits for the other")
}

/// A listener, and the stranger's end of a connection to it.
async fn with_stranger<F: Future<Output = ()>>(
    stranger: impl FnOnce(DuplexStream) -> F,
) -> HandshakeError {
    let (near, mut far) = duplex(16 << 10);
    let (identity, plain) = (store(), Channel::default());
    let listening = async {
        let heard = listen(&mut far, &identity, &[Role::MsgServer], &plain).await;
        drop(far);
        heard
    };
    let both = async { tokio::join!(listening, stranger(near)) };
    let (heard, ()) = timeout(LIMIT, both).await.expect("neither waits for the other");
    heard.expect_err("a stranger gets no link")
}

/// What the listener says last: the kind of the frame, and its body.
async fn last_frame(mut socket: DuplexStream) -> (u16, Bytes) {
    let mut bytes = Vec::new();
    socket.read_to_end(&mut bytes).await.unwrap();
    let mut buffer = BytesMut::from(&bytes[..]);
    let mut last = None;
    while let Some(frame) = frame::split(&mut buffer, HANDSHAKE_FRAME_LEN_MAX).unwrap() {
        last = Some((frame.kind, frame.body));
    }
    last.expect("the listener says something")
}

#[tokio::test(start_paused = true)]
async fn each_end_learns_the_identity_of_the_other() {
    let (dialed, heard) = meet(&gateway(), &store()).await;
    let claim = |identity: Identity| {
        let Identity { role, name, boot, .. } = identity;
        Claim { role, name, boot }
    };
    assert_eq!(dialed.unwrap(), claim(store()));
    assert_eq!(heard.unwrap(), claim(gateway()));
}

#[tokio::test(start_paused = true)]
async fn a_name_that_is_too_long_is_cut_between_two_characters() {
    // 254 bytes, then a character of two: only a half of it would fit.
    let long = format!("{}ää", "n".repeat(NAME_LEN_MAX - 1));
    let (dialed, heard) = meet(&named(Role::MsgServer, &long), &store()).await;
    dialed.unwrap();
    assert_eq!(heard.unwrap().name, "n".repeat(254));
    let fits = "ä".repeat(127) + "n";
    assert_eq!(meet(&gateway(), &named(Role::DbProxy, &fits)).await.0.unwrap().name, fits);
}

#[tokio::test(start_paused = true)]
async fn a_name_that_would_spoil_a_log_line_makes_no_link() {
    for name in ["", "gate\nway", "gate\u{1b}[2Jway"] {
        let (_dialed, heard) = meet(&named(Role::MsgServer, name), &store()).await;
        assert!(matches!(heard, Err(HandshakeError::Malformed)), "{name:?}: {heard:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_peer_is_told_why() {
    let told = |dialed: Result<Claim, HandshakeError>| match dialed {
        Err(HandshakeError::RefusedByPeer(why)) => why,
        other => panic!("{other:?} instead of a refusal"),
    };
    let (dialed, heard) = meet(&named(Role::LoginServer, "login"), &store()).await;
    assert_eq!(told(dialed), "our role is not expected there");
    assert!(matches!(heard, Err(HandshakeError::Role)));

    for (error, expected) in [
        (HandshakeError::Key, "the keys differ"),
        (HandshakeError::Role, "our role is not expected there"),
        (HandshakeError::Version, "the versions differ"),
        (HandshakeError::Certificate, "our certificate is not for our role"),
    ] {
        let code = error.code().expect("the peer is told");
        assert!(error.is_refusal(), "somebody must look: {error}");
        let heard = HandshakeError::from_code(&Bytes::copy_from_slice(&[code]));
        assert_eq!(told(Err(heard)), expected);
    }
    for error in [HandshakeError::TimedOut, HandshakeError::Malformed, HandshakeError::Known] {
        assert_eq!(error.code(), None, "{error}");
        assert!(!error.is_refusal(), "it may go away by itself: {error}");
    }
    assert_eq!(told(Err(HandshakeError::from_code(&Bytes::new()))), "no reason given");
}

#[tokio::test(start_paused = true)]
async fn a_stranger_does_not_learn_which_roles_are_welcome() {
    let other_key =
        Identity { key: LinkKey::new(b"other"), ..named(Role::LoginServer, "stranger") };
    // A dialer would notice that the listener has another key, and say nothing more.
    let error = with_stranger(async |mut socket| {
        let hello = introduction(&other_key);
        write(&mut socket, frame::HELLO, &hello).await.unwrap();
        read(&mut socket, frame::CHALLENGE).await.unwrap();
        write(&mut socket, frame::PROOF, &[0; MAC_LEN]).await.unwrap();
        let (kind, body) = last_frame(socket).await;
        assert_eq!((kind, &body[..]), (frame::REFUSED, &[1][..]), "the key comes first");
    })
    .await;
    assert!(matches!(error, HandshakeError::Key), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_listeners_own_proof_given_back_is_no_proof() {
    let error = with_stranger(async |mut socket| {
        write(&mut socket, frame::HELLO, &introduction(&gateway())).await.unwrap();
        let challenge = read(&mut socket, frame::CHALLENGE).await.unwrap();
        let (_signed, _claim, mac) = parse_challenge(&challenge).unwrap();
        write(&mut socket, frame::PROOF, &mac).await.unwrap();
        assert_eq!(last_frame(socket).await.0, frame::REFUSED);
    })
    .await;
    assert!(matches!(error, HandshakeError::Key), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_hello_of_another_release_is_told_so_and_one_with_more_in_it_is_none() {
    let error = with_stranger(async |mut socket| {
        let mut hello = introduction(&gateway());
        hello[1] = 2;
        write(&mut socket, frame::HELLO, &hello).await.unwrap();
        let (kind, body) = last_frame(socket).await;
        assert_eq!((kind, &body[..]), (frame::REFUSED, &[3][..]));
    })
    .await;
    assert!(matches!(error, HandshakeError::Version), "{error}");

    for spoil in
        [|hello: &mut Vec<u8>| hello.push(0), |hello: &mut Vec<u8>| hello.truncate(hello.len() - 1)]
    {
        let error = with_stranger(async |mut socket| {
            let mut hello = introduction(&gateway());
            spoil(&mut hello);
            write(&mut socket, frame::HELLO, &hello).await.unwrap();
        })
        .await;
        assert!(matches!(error, HandshakeError::Malformed), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stranger_may_not_send_more_than_a_handshake_needs() {
    let error = with_stranger(async |mut socket| {
        let len = u32::try_from(HANDSHAKE_FRAME_LEN_MAX + 1).unwrap();
        socket.write_all(&len.to_be_bytes()).await.unwrap();
        // Refused on its length: nothing more is waited for.
        let mut heard = Vec::new();
        socket.read_to_end(&mut heard).await.unwrap();
        assert!(heard.is_empty(), "{heard:?}");
    })
    .await;
    assert!(matches!(error, HandshakeError::Malformed), "{error}");
}

#[tokio::test(start_paused = true)]
async fn steps_out_of_order_are_no_handshake() {
    for kind in [frame::PROOF, frame::CHALLENGE, frame::WELCOME, frame::PING, 1] {
        let error = with_stranger(async |mut socket| {
            write(&mut socket, kind, &introduction(&gateway())).await.unwrap();
        })
        .await;
        assert!(matches!(error, HandshakeError::Malformed), "{kind:#x}: {error}");
    }
    let error = with_stranger(async |socket| drop(socket)).await;
    assert!(matches!(error, HandshakeError::Io(_)), "{error}");
}

/// The dialer's end meets a listener that is played by the test, up to the proof.
async fn played_listener(socket: &mut DuplexStream, hello: &Bytes) {
    let identity = store();
    let mut challenge = introduction(&identity);
    let transcript = Transcript { hello, challenge: &challenge, binding: &[] };
    let mac = transcript.sign(Prover::Listener, &identity);
    challenge.extend_from_slice(mac.as_ref());
    write(socket, frame::CHALLENGE, &challenge).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn what_comes_right_behind_the_welcome_is_left_for_the_link() {
    let (mut near, mut far) = duplex(16 << 10);
    let (identity, plain) = (gateway(), Channel::default());
    let dialing = dial(&mut near, &identity, Role::DbProxy, &plain, |_claim| true);
    let (dialed, ()) = tokio::join!(timeout(LIMIT, dialing), async {
        let hello = read(&mut far, frame::HELLO).await.unwrap();
        played_listener(&mut far, &hello).await;
        read(&mut far, frame::PROOF).await.unwrap();
        let mut both = Vec::new();
        for (kind, body) in [(frame::WELCOME, &b""[..]), (5, b"first words")] {
            let head = Head { kind, answer: false, request: 0 };
            frame::put(&mut both, head, |buffer| buffer.extend_from_slice(body)).unwrap();
        }
        far.write_all(&both).await.unwrap();
    });
    dialed.expect("it was welcome").unwrap();
    let mut first = vec![0; HEADER_LEN + b"first words".len()];
    timeout(LIMIT, near.read_exact(&mut first)).await.expect("it is still there").unwrap();
    assert!(first.ends_with(b"first words"));
}

#[tokio::test(start_paused = true)]
async fn a_dialer_proves_itself_only_to_whom_it_wants_and_is_not_linked_to() {
    for (expects, admits) in [(Role::RouteServer, true), (Role::DbProxy, false)] {
        let (mut near, mut far) = duplex(16 << 10);
        let (identity, plain) = (gateway(), Channel::default());
        let dialing = async {
            let dialed = dial(&mut near, &identity, expects, &plain, |_claim| admits).await;
            drop(near);
            dialed
        };
        let (dialed, ()) = tokio::join!(timeout(LIMIT, dialing), async {
            let hello = read(&mut far, frame::HELLO).await.unwrap();
            played_listener(&mut far, &hello).await;
            let mut more = Vec::new();
            drop(timeout(LIMIT, far.read_to_end(&mut more)).await);
            assert!(more.is_empty(), "it has said more than its hello");
        });
        let error = dialed.expect("it does not wait for a welcome").unwrap_err();
        let expected = if admits { "the role is not expected here" } else { "link to that daemon" };
        assert!(error.to_string().contains(expected), "{error}");
    }
}
