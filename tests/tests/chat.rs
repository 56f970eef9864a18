//! What people do: talk to each other through different gateways, in pairs and in groups, online
//! and offline, with one device or two.

use client::{Conversation, Draft};
use proto::Command;
use proto::client::{MessageData, ReadNotify};
use tests::{Cluster, Device};

#[tokio::test]
async fn two_people_talk_through_two_gateways_in_both_directions() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    for round in 0..5 {
        let (asked, answered) = (format!("question {round}"), format!("answer {round}"));
        assert_eq!(anna.say(Conversation::user(2), &asked).await, 2 * round + 1);
        let heard = ben.hears(1, Conversation::user(2), &asked).await;
        assert_eq!(heard.msg_id, 2 * round + 1, "both sides count alike");
        assert_eq!(ben.say(Conversation::user(1), &answered).await, 2 * round + 2);
        let heard = anna.hears(2, Conversation::user(1), &answered).await;
        assert_eq!(heard.msg_id, 2 * round + 2, "both sides count alike");
    }
    let mine = anna.texts(Conversation::user(2)).await;
    assert_eq!(mine.len(), 10);
    assert_eq!(mine, ben.texts(Conversation::user(1)).await, "there is one history");
    anna.heard_nothing(Command::MessageData).await;
    ben.heard_nothing(Command::MessageData).await;
}

#[tokio::test]
async fn messages_sent_without_waiting_keep_their_order() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let texts: Vec<String> = (1..=150).map(|number| format!("line {number}")).collect();
    for text in &texts {
        let draft = Draft::text(Conversation::user(2), text).without_id();
        anna.connection().post_message(&draft).await.expect("send a message");
    }
    for (msg_id, text) in (1..).zip(&texts) {
        assert_eq!(ben.hears(1, Conversation::user(2), text).await.msg_id, msg_id);
    }
    assert_eq!(ben.texts(Conversation::user(1)).await, texts);
}

#[tokio::test]
async fn a_group_message_reaches_all_members_on_both_gateways_but_not_the_session_that_sent_it() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut author = Device::pc(here, 1).await;
    let mut phone = Device::mobile(there, 1).await;
    let mut outsider = Device::pc(there, 11).await;
    let mut members = Vec::new();
    for user in 2..=10 {
        members.push(Device::pc(if user % 2 == 0 { here } else { there }, user).await);
    }
    let group = Conversation::group(1);
    assert_eq!(author.say(group, "good morning").await, 1);
    for member in &mut members {
        assert_eq!(member.hears(1, group, "good morning").await.msg_id, 1);
    }
    phone.hears(1, group, "good morning").await;
    assert_eq!(members[0].say(group, "good morning to you").await, 2);
    assert_eq!(author.hears(2, group, "good morning to you").await.msg_id, 2);
    author.heard_nothing(Command::MessageData).await;
    outsider.heard_nothing(Command::MessageData).await;
    members[0].heard_nothing(Command::MessageData).await;
}

#[tokio::test]
async fn a_user_who_was_offline_sees_exact_counts_fetches_the_messages_and_reads_them() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut carl = Device::pc(&cluster.gateways[1], 3).await;
    for number in 1..=7 {
        assert_eq!(anna.say(Conversation::user(2), &format!("for ben {number}")).await, number);
    }
    for number in 1..=3 {
        assert_eq!(carl.say(Conversation::user(2), &format!("from carl {number}")).await, number);
    }
    for number in 1..=4 {
        anna.say(Conversation::group(1), &format!("for all {number}")).await;
    }

    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let [from_anna, from_carl, group] =
        [Conversation::user(1), Conversation::user(3), Conversation::group(1)];
    let unread = ben.unread().await;
    assert_eq!(unread, [(from_anna, 7), (from_carl, 3), (group, 4)].into());
    // As Windows does: as many as are unread, back from the newest.
    let page = ben.page(from_anna, 7, 7).await;
    assert_eq!(page.first().map(|info| (info.msg_id, info.from_user_id)), Some((7, 1)));
    let texts = ben.texts(from_anna).await;
    assert_eq!(texts, (1..=7).map(|number| format!("for ben {number}")).collect::<Vec<_>>());

    ben.read(from_anna, 7).await;
    ben.read(group, 2).await;
    assert_eq!(ben.unread().await, [(from_carl, 3), (group, 2)].into());
    // What a user says is not unread for that user; what came before it still is.
    ben.say(from_carl, "later").await;
    assert_eq!(ben.unread().await, [(from_carl, 3), (group, 2)].into());
    ben.read(from_carl, 4).await;
    ben.read(group, 4).await;
    assert_eq!(ben.unread().await, [].into());
    assert_eq!(anna.unread().await, [].into(), "the author has read what he wrote");
    // Out and in again, elsewhere: nothing has come back.
    drop(ben);
    let mut ben = Device::pc(&cluster.gateways[0], 2).await;
    assert_eq!(ben.unread().await, [].into());
    ben.heard_nothing(Command::MessageData).await;
}

#[tokio::test]
async fn the_other_device_of_the_author_gets_the_messages_and_read_marks_of_this_one() {
    let cluster = Cluster::start();
    let [here, there] = &cluster.gateways[..] else { panic!("there are two gateways") };
    let mut desk = Device::pc(here, 1).await;
    let mut phone = Device::mobile(there, 1).await;
    let mut ben = Device::pc(there, 2).await;
    let with_ben = Conversation::user(2);

    assert_eq!(desk.say(with_ben, "from the desk").await, 1);
    assert_eq!(phone.hears(1, with_ben, "from the desk").await.msg_id, 1);
    assert_eq!(phone.say(with_ben, "from the phone").await, 2);
    assert_eq!(desk.hears(1, with_ben, "from the phone").await.msg_id, 2);
    ben.say(Conversation::user(1), "which is it?").await;
    for device in [&mut desk, &mut phone] {
        let heard = device.hears(2, Conversation::user(1), "which is it?").await;
        assert_eq!(heard.msg_id, 3);
        assert_eq!(device.unread().await, [(with_ben, 1)].into());
    }

    phone.read(with_ben, 3).await;
    let notice: ReadNotify = desk.push(Command::ReadNotify).await;
    assert_eq!((notice.user_id, notice.session_id, notice.msg_id), (1, 2, 3));
    assert_eq!(desk.unread().await, [].into());
    // Android answers a notice with the same mark: that must not go round.
    desk.read(with_ben, 3).await;
    desk.heard_nothing(Command::ReadNotify).await;
    phone.heard_nothing(Command::ReadNotify).await;
    ben.heard_nothing(Command::ReadNotify).await;
    for device in [&mut desk, &mut phone] {
        device.heard_nothing(Command::MessageData).await;
    }
}

#[tokio::test]
async fn a_long_history_is_complete_on_every_page() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let conversation = Conversation::user(2);
    // Some of them 60 KiB long, so that a page of 100 exceeds what Android takes in one frame.
    let text = |number: u32| {
        let len = if number.is_multiple_of(3) { 44_000 } else { 0 };
        format!("{number} {}", "x".repeat(len))
    };
    for number in 1..=120 {
        assert_eq!(anna.say(conversation, &text(number)).await, number);
    }
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    let texts = ben.texts(Conversation::user(1)).await;
    assert_eq!(texts.len(), 120);
    for (number, found) in (1..).zip(&texts) {
        assert!(*found == text(number), "message {number} is as it was sent");
    }
}

#[tokio::test]
async fn a_cluster_that_was_stopped_goes_on_where_it_was() {
    let cluster = Cluster::start();
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    anna.say(Conversation::user(2), "before").await;
    anna.say(Conversation::group(1), "to all, before").await;
    drop(anna);
    let ended = cluster.stop();
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);

    let cluster = ended.start_again(&tests::Options::default());
    let mut anna = Device::pc(&cluster.gateways[0], 1).await;
    let mut ben = Device::pc(&cluster.gateways[1], 2).await;
    assert_eq!(
        ben.unread().await,
        [(Conversation::user(1), 1), (Conversation::group(1), 1)].into()
    );
    assert_eq!(anna.say(Conversation::user(2), "after").await, 2);
    let heard: MessageData = ben.hears(1, Conversation::user(2), "after").await;
    assert_eq!(heard.msg_id, 2);
    assert_eq!(ben.texts(Conversation::user(1)).await, ["before", "after"]);
}
