//! How fast batches go in, beside bare inserts of the same rows.

use std::time::Instant;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Params, Value};

use super::*;

/// Messages.
const ROWS: u32 = 200_000;

/// Messages in a commit, conversations that they belong to by turns, and the least share.
///
/// The worker writes a batch every 20 ms: the first two are batches of 50,000 messages a second, the
/// last is what an outage leaves. In the second no two messages share a conversation, so that the
/// store writes three rows for each (message, conversation, mark): it is shown for what it costs.
const LOADS: [(u32, u32, f64); 4] =
    [(1_000, 100, 60.0), (1_000, 1_000, 0.0), (4_000, 1_000, 60.0), (20_000, 1_000, 60.0)];

/// Rows in one bare statement.
const STATEMENT: usize = 1_000;

#[tokio::test]
#[ignore = "takes a minute, and says something only in release"]
async fn throughput() {
    println!(
        "messages/s of {ROWS} with bodies of 100 bytes; bare: nothing but messages, {STATEMENT} in \
         a statement, the same commits"
    );
    println!("per commit  conversations       bare      store   share");
    for (per_commit, talks, least) in LOADS {
        let mut shares = Vec::new();
        for _ in 0..3 {
            let bare = bare(per_commit, talks).await;
            let stored = stored(per_commit, talks).await;
            let share = stored / bare * 100.0;
            shares.push(share);
            println!("{per_commit:>10} {talks:>14} {bare:>10.0} {stored:>10.0} {share:>6.0}%");
        }
        shares.sort_by(f64::total_cmp);
        assert!(shares[1] >= least, "{shares:?}");
    }
}

async fn bare(per_commit: u32, talks: u32) -> f64 {
    let fresh = fresh().await;
    let mut conn = Conn::from_url(&fresh.options.shards[0]).await.unwrap();
    let mut statement = "INSERT INTO message VALUES ".to_owned();
    statement.push_str(&vec!["(?,?,?,?,?,?,?,?)"; STATEMENT].join(","));
    let batches: Vec<_> = batches(per_commit, talks).collect();
    let began = Instant::now();
    for batch in batches {
        conn.query_drop("BEGIN").await.unwrap();
        for rows in batch.messages.chunks(STATEMENT) {
            let mut values = Vec::with_capacity(STATEMENT * 8);
            for message in rows {
                let client_msg_id = &message.client_msg_id.0[..];
                values.extend([
                    Value::from(message.conversation.number()),
                    Value::from(message.msg_id.0),
                    Value::from(message.sender.0),
                    Value::from(client_msg_id),
                    Value::from(message.offset.0),
                    Value::from(message.timestamp_ms),
                    Value::from(message.kind),
                    Value::from(message.body.as_ref()),
                ]);
            }
            conn.exec_drop(&statement, Params::Positional(values)).await.unwrap();
        }
        conn.query_drop("COMMIT").await.unwrap();
    }
    f64::from(ROWS) / began.elapsed().as_secs_f64()
}

async fn stored(per_commit: u32, talks: u32) -> f64 {
    let fresh = fresh().await;
    let epoch = fresh.claim("owner".to_owned(), LOG).await.unwrap().epoch;
    let batches: Vec<_> = batches(per_commit, talks).collect();
    let began = Instant::now();
    let mut after = Offset(0);
    for batch in batches {
        let applied = batch.applied;
        // As the worker does, which keeps its own in case it must write it again.
        fresh.commit(epoch, after, batch.clone()).await.unwrap();
        after = applied;
    }
    f64::from(ROWS) / began.elapsed().as_secs_f64()
}

/// All rows, as the fold makes them: by turns of all conversations, each batch with the rows of the
/// conversations that it touches and the marks of those who wrote.
fn batches(per_commit: u32, talks: u32) -> impl Iterator<Item = Batch> {
    (0..ROWS / per_commit).map(move |number| {
        let rows = number * per_commit..(number + 1) * per_commit;
        let messages: Vec<_> = rows.map(|number| message(number, talks)).collect();
        let touched = messages.iter().rev().take(talks as usize);
        let conversations = touched.clone().map(|message| ConversationRow {
            id: message.conversation,
            head: message.msg_id,
            last_offset: message.offset,
            last_message_ms: message.timestamp_ms,
            group: None,
        });
        let marks = touched.map(|message| MarkRow {
            conversation: message.conversation,
            user: message.sender,
            read: message.msg_id,
            own_up_to_read: message.msg_id.0,
            own_total: message.msg_id.0,
            removed_at: MsgId(0),
            shield: false,
        });
        Batch {
            applied: Offset(u64::from((number + 1) * per_commit)),
            conversations: conversations.collect(),
            marks: marks.collect(),
            messages: messages.clone(),
            ..Batch::default()
        }
    })
}

fn message(number: u32, talks: u32) -> MessageRow {
    let talk = number % talks;
    // Ids of clients rise with time and are random below.
    let random = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    MessageRow {
        conversation: ConversationId::single(UserId(1 + talk), UserId(100_000 + talk)).unwrap(),
        msg_id: MsgId(1 + number / talks),
        sender: UserId(1 + talk),
        client_msg_id: ClientMsgId((u128::from(number) << 64 | u128::from(random)).to_be_bytes()),
        offset: Offset(u64::from(number) + 1),
        timestamp_ms: 1_800_000_000_000 + u64::from(number),
        kind: 1,
        body: Bytes::from(vec![b'x'; 100]),
    }
}
