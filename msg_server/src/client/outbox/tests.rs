//! What a client gets, and when it is let go, over real sockets.

use std::future::poll_fn;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const CHUNK: usize = 16 << 10;

struct Pair {
    outbox: Arc<Outbox>,
    client: TcpStream,
    pool: Arc<OutboxPool>,
}

async fn pair(change: impl FnOnce(&mut LimitsConfig)) -> Pair {
    let mut limits = LimitsConfig::default();
    change(&mut limits);
    let pool = Arc::new(OutboxPool::new(&limits, GatewayMetrics::default()));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (socket, _peer) = listener.accept().await.unwrap();
    let (_reader, writer) = socket.into_split();
    // The kernel says that the socket can be written to before anything is tried.
    writer.writable().await.unwrap();
    let outbox = Arc::new(Outbox::plain(writer, Arc::clone(&pool)));
    Pair { outbox, client, pool }
}

/// Pushes until the kernel takes no more and something waits.
fn fill(outbox: &Outbox) -> usize {
    let chunk = Bytes::from(vec![7; CHUNK]);
    let mut pushed = 0;
    while outbox.state.lock().queue.is_empty() {
        assert!(outbox.push(&chunk, 1));
        pushed += CHUNK;
    }
    pushed
}

/// What the connection's task does, until nothing waits.
async fn write_all(outbox: &Outbox) {
    poll_fn(|context| match outbox.poll_write(context, None).blocked_since {
        Some(_since) => Poll::Pending,
        None => Poll::Ready(()),
    })
    .await;
}

#[tokio::test]
async fn what_the_socket_takes_never_waits() {
    let Pair { outbox, mut client, pool } = pair(|_limits| {}).await;
    assert!(outbox.push(&Bytes::from_static(b"hello"), 1));
    assert_eq!(pool.queued(), 0);
    let mut read = [0; 5];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"hello");
}

#[tokio::test]
async fn everything_comes_in_order_however_slowly_it_is_read() {
    let Pair { outbox, mut client, pool } = pair(|_limits| {}).await;
    let pushed = fill(&outbox);
    outbox.answer(Bytes::from_static(b"answer"));
    assert!(outbox.push(&Bytes::from_static(b"push"), 1));
    assert!(pool.queued() > 0);
    let reading = async {
        let mut all = vec![0; pushed + 10];
        client.read_exact(&mut all).await.unwrap();
        assert_eq!(&all[pushed..], b"answerpush");
    };
    tokio::join!(reading, write_all(&outbox));
    assert_eq!(pool.queued(), 0);
    assert_eq!(outbox.state.lock().queue.capacity(), 0, "an idle client keeps no memory");
}

#[test]
fn of_frames_that_are_written_together_what_was_not_written_still_waits() {
    let pool = OutboxPool::new(&LimitsConfig::default(), GatewayMetrics::default());
    let outbox = Outbox::queued(Arc::new(pool));
    for push in ["first-", "second-"] {
        assert!(outbox.push(&Bytes::from(push), 1));
    }
    outbox.answer(Bytes::from_static(b"answer"));
    for (written, waits, pushed) in [(8, "cond-answer", 5), (7, "swer", 0), (4, "", 0)] {
        let mut state = outbox.state.lock();
        outbox.consume(&mut state, written);
        let rest: Vec<u8> = state.queue.iter().flat_map(|item| item.bytes.clone()).collect();
        assert_eq!((&rest[..], state.push_bytes), (waits.as_bytes(), pushed));
        assert_eq!(outbox.pool.queued(), pushed);
    }
}

#[tokio::test]
async fn too_many_pushes_end_the_connection_and_answers_do_not_count() {
    let Pair { outbox, client: _client, pool } = pair(|limits| limits.outbox_frames_max = 8).await;
    fill(&outbox);
    for _ in 0..100 {
        outbox.answer(Bytes::from_static(b"answer"));
    }
    for _ in 1..8 {
        assert!(outbox.push(&Bytes::from_static(b"push"), 1));
    }
    assert!(!outbox.push(&Bytes::from_static(b"push"), 1));
    assert_eq!(outbox.ending(), Ending::Now(CloseReason::SlowReader));
    assert_eq!(pool.queued(), 0, "nobody will write it");
}

#[tokio::test]
async fn so_many_bytes_of_pushes_wait_and_not_one_more() {
    let Pair { outbox, client: _client, .. } =
        pair(|limits| limits.outbox_bytes_max = 2 * CHUNK).await;
    fill(&outbox);
    let room = 2 * CHUNK - outbox.state.lock().push_bytes;
    // Answers are the client's own affair.
    outbox.answer(Bytes::from(vec![0; CHUNK]));
    assert!(outbox.push(&Bytes::from(vec![0; room - 1]), 1));
    assert!(outbox.push(&Bytes::from_static(b"1"), 1));
    assert_eq!(outbox.ending(), Ending::Open);
    assert!(!outbox.push(&Bytes::from_static(b"1"), 1));
    assert_eq!(outbox.ending(), Ending::Now(CloseReason::SlowReader));
}

#[tokio::test]
async fn a_push_larger_than_all_that_may_wait_is_taken_if_nothing_waits() {
    let Pair { outbox, client: _client, .. } = pair(|limits| limits.outbox_bytes_max = 8).await;
    let mut pushed = 0;
    while outbox.state.lock().queue.is_empty() {
        assert!(outbox.push(&Bytes::from(vec![7; CHUNK]), 1));
        pushed += CHUNK;
    }
    assert!(pushed > 8 && outbox.state.lock().push_bytes > 0);
    assert!(!outbox.push(&Bytes::from_static(b"1"), 1));
}

#[tokio::test]
async fn joined_frames_count_one_by_one() {
    let Pair { outbox, client: _client, .. } = pair(|limits| limits.outbox_frames_max = 8).await;
    fill(&outbox);
    assert!(outbox.push(&Bytes::from_static(b"seven"), 7));
    assert!(!outbox.push(&Bytes::from_static(b"two"), 2));
}

#[tokio::test]
async fn all_clients_together_have_a_limit() {
    let Pair { outbox, client: _client, pool } =
        pair(|limits| limits.outbox_bytes_total_max = 2 * CHUNK).await;
    fill(&outbox);
    let other = Outbox::queued(Arc::clone(&pool));
    let room = 2 * CHUNK - pool.queued();
    assert!(other.push(&Bytes::from(vec![0; room]), 1));
    assert!(!outbox.push(&Bytes::from_static(b"one byte too many"), 1));
    drop(other);
    assert_eq!(pool.queued(), 0, "given back with the outbox, and by the one that was ended");
}

#[tokio::test]
async fn what_is_held_comes_after_the_answer_to_the_login() {
    let Pair { outbox, mut client, .. } = pair(|limits| limits.outbox_frames_max = 2).await;
    outbox.hold();
    assert!(outbox.push(&Bytes::from_static(b"-first"), 1));
    assert!(outbox.push(&Bytes::from_static(b"-second"), 1));
    assert!(!outbox.push(&Bytes::from_static(b"-third"), 1), "dropped: the client will ask");
    assert_eq!(outbox.ending(), Ending::Open);
    outbox.release(Bytes::from_static(b"login"));
    write_all(&outbox).await;
    let mut read = [0; 18];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"login-first-second");
}

#[tokio::test]
async fn after_the_last_word_nothing_is_taken() {
    let Pair { outbox, mut client, .. } = pair(|_limits| {}).await;
    outbox.finish(Some(Bytes::from_static(b"bye")), CloseReason::Kicked);
    assert!(!outbox.push(&Bytes::from_static(b"push"), 1));
    outbox.answer(Bytes::from_static(b"answer"));
    outbox.finish(Some(Bytes::from_static(b"again")), CloseReason::LoggedOut);
    assert_eq!(outbox.ending(), Ending::Polite(CloseReason::Kicked));
    drop(outbox);
    let mut read = Vec::new();
    client.read_to_end(&mut read).await.unwrap();
    assert_eq!(read, b"bye");
}

#[tokio::test]
async fn a_client_that_is_gone_is_noticed_by_the_task_that_writes() {
    let Pair { outbox, mut client, .. } = pair(|_limits| {}).await;
    client.shutdown().await.unwrap();
    drop(client);
    let chunk = Bytes::from(vec![7; CHUNK]);
    while outbox.push(&chunk, 1) {
        tokio::task::yield_now().await;
    }
    assert!(matches!(outbox.ending(), Ending::Now(_)));
}

#[tokio::test]
async fn a_sender_has_room_again_when_something_is_answered() {
    let Pair { outbox, client: _client, .. } = pair(|limits| limits.unanswered_max = 2).await;
    assert!(outbox.begin_send() && outbox.begin_send() && !outbox.begin_send());
    let (woken, mut wakes) = tokio::sync::mpsc::channel(1);
    let waiting = Arc::clone(&outbox);
    let task = async move {
        poll_fn(|context| {
            waiting.poll_write(context, None);
            if waiting.begin_send() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        woken.send(()).await.unwrap();
    };
    tokio::join!(task, async {
        tokio::task::yield_now().await;
        outbox.end_send(None);
        wakes.recv().await.unwrap();
    });
}

#[tokio::test]
async fn a_client_that_misses_something_gets_no_push_and_still_its_answers() {
    let Pair { outbox, mut client, .. } = pair(|_limits| {}).await;
    outbox.stop_pushes();
    assert!(!outbox.push(&Bytes::from_static(b"push"), 1));
    outbox.answer(Bytes::from_static(b"answer"));
    let mut read = [0; 6];
    client.read_exact(&mut read).await.unwrap();
    assert_eq!(&read, b"answer");
}

#[tokio::test]
async fn an_answer_counts_as_written_when_the_socket_has_it() {
    let id = ClientMsgId([1; 16]);
    let answer_one = |outbox: &Outbox| outbox.end_frame(id, Bytes::from_static(b"answer"));
    let is_written = |outbox: &Outbox| {
        let told = outbox.frames_told();
        assert_eq!(told.last.map(|(last, _)| last), Some(id));
        told.written
    };
    let Pair { outbox, client: _reads_later, .. } = pair(|_limits| {}).await;
    answer_one(&outbox);
    assert!(is_written(&outbox));
    outbox.close(CloseReason::ClientLeft);
    outbox.answer(Bytes::from_static(b"to something else"));
    assert!(is_written(&outbox), "what comes too late is another answer");

    let Pair { outbox, mut client, .. } = pair(|_limits| {}).await;
    let pushed = fill(&outbox);
    answer_one(&outbox);
    assert!(!is_written(&outbox), "it waits");
    let reading = async {
        let mut all = vec![0; pushed + 6];
        client.read_exact(&mut all).await.unwrap();
    };
    tokio::join!(reading, write_all(&outbox));
    assert!(is_written(&outbox));

    let Pair { outbox, client: _never_reads, .. } = pair(|_limits| {}).await;
    fill(&outbox);
    answer_one(&outbox);
    outbox.close(CloseReason::SlowReader);
    assert!(!is_written(&outbox), "it waited in vain");

    let Pair { outbox, client: _gone, .. } = pair(|_limits| {}).await;
    outbox.close(CloseReason::ClientLeft);
    answer_one(&outbox);
    assert!(!is_written(&outbox), "nobody was there to read it");
}
