//! Who gets in, and what a login does to other devices.

use std::sync::atomic::Ordering;

use proto::cluster::{Kind, wire};
use proto::{Command, client, encode_message};

use super::harness::*;

#[tokio::test]
async fn the_first_frame_is_the_answer_and_it_is_complete() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let reply: client::LoginReply = client.expect(Command::LoginReply, 7).await;
    assert_eq!(reply.result, 0);
    assert!(!reply.result_text().is_empty());
    assert_eq!(reply.online_status(), client::UserStatus::Online);
    assert_eq!(reply.user_info.unwrap().user_id, 5);
    let change = world.hub.next_change().await;
    assert_eq!(change.add_users[0].user, 5);
    world.stop().await;
}

#[tokio::test]
async fn a_second_login_on_one_connection_is_ignored() {
    let world = World::start().await;
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    client.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    client.send(Command::LoginRequest, 8, &login(6, WINDOWS)).await;
    client.send(Command::Heartbeat, 9, &client::Heartbeat {}).await;
    client.expect::<client::Heartbeat>(Command::Heartbeat, 9).await;
    assert_eq!(world.hub.next_change().await.add_users[0].user, 5);
    world.stop().await;
}

#[tokio::test]
async fn no_push_comes_before_the_answer_to_the_login() {
    let world = World::start().await;
    world.hub.confirms.store(false, Ordering::SeqCst);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let change = world.hub.next_change().await;
    assert_eq!(change.add_users.len(), 1);
    // The hub knows the session and has not confirmed it: a message comes for it.
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    let registered = wire::Registered {
        largest_epoch: Some(change.add_users[0].epoch),
        ..wire::Registered::default()
    };
    let link = world.hub.links.lock().last().cloned().unwrap();
    link.answer_request(1, Kind::InterestChange.number(), &registered).unwrap();
    client.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    assert_eq!(client.expect_push().await.msg_id, 1);
    world.stop().await;
}

/// Once, a session that was displaced while it logged in got the notice as its first frame; later it got
/// nothing, so that it came back and threw out the other one.
#[tokio::test]
async fn regression_a_login_that_is_displaced_before_its_answer_hears_of_it_after_that() {
    let world = World::start().await;
    world.hub.confirms.store(false, Ordering::SeqCst);
    let mut first = world.connect().await;
    first.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    world.hub.next_change().await;
    let mut second = world.connect().await;
    second.send(Command::LoginRequest, 8, &login(5, WINDOWS)).await;
    let reply: client::LoginReply = first.expect(Command::LoginReply, 7).await;
    assert_eq!(reply.result, 0);
    assert_eq!(first.expect::<client::KickNotify>(Command::KickNotify, 0).await.reason, 1);
    first.expect_closed().await;
    second.expect::<client::LoginReply>(Command::LoginReply, 8).await;
    world.stop().await;
}

/// Once, a kick by epoch that came before the login was settled was forgotten, and both stayed.
#[tokio::test]
async fn regression_a_kick_that_comes_during_the_login_counts() {
    let world = World::start().await;
    world.hub.confirms.store(false, Ordering::SeqCst);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let epoch = world.hub.next_change().await.add_users[0].epoch;
    world.hub.send(Kind::Kick, &kick_below(epoch + 1));
    let registered = wire::Registered { largest_epoch: Some(epoch), ..wire::Registered::default() };
    let link = world.hub.links.lock().last().cloned().unwrap();
    link.answer_request(1, Kind::InterestChange.number(), &registered).unwrap();
    client.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    client.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    client.expect_closed().await;
    world.stop().await;
}

/// Once, a client that had logged in elsewhere meanwhile was thrown out there by its own login that it
/// had given up.
#[tokio::test]
async fn regression_a_login_that_came_before_the_one_that_the_hub_knows_gives_way() {
    let world = World::start().await;
    world.hub.larger_epoch.store(u64::MAX / 2, Ordering::SeqCst);
    *world.hub.larger_age_us.lock() = Some(0);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    client.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    client.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    client.expect_closed().await;
    assert!(world.hub.next_change().await.add_users[0].epoch < u64::MAX / 2);
    let next = world.hub.next_change().await;
    assert!(next.add_users.is_empty() && next.remove_users.len() == 1, "it does not rise");
    world.stop().await;
}

#[tokio::test]
async fn a_login_whose_client_has_gone_meanwhile_throws_nobody_out() {
    let world = World::start_with(|limits| limits.connections_per_ip_max = 2).await;
    let mut here = world.client(5, WINDOWS).await;
    world.hub.next_change().await;
    world.db.answers_verifies.store(false, Ordering::SeqCst);
    let mut gone = world.connect().await;
    gone.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let (link, question) = world.db.next_verify().await;
    drop(gone);
    // Its connection is given up although the check goes on: another one finds room.
    loop {
        let mut next = world.connect().await;
        next.write(&heartbeat(3)).await;
        if next.next().await.is_some() {
            break;
        }
    }
    world.db.verify(&link, question);
    // Answered over the same link.
    here.send(Command::NormalGroupsRequest, 4, &client::NormalGroupsRequest::default()).await;
    here.expect::<client::NormalGroupsReply>(Command::NormalGroupsReply, 4).await;
    assert!(world.hub.changed.lock().await.try_recv().is_err(), "nobody has entered");
    world.stop().await;
}

#[tokio::test]
async fn of_two_logins_here_the_one_that_came_last_stays_whichever_is_checked_first() {
    let world = World::start().await;
    world.db.answers_verifies.store(false, Ordering::SeqCst);
    let mut early = world.connect().await;
    early.send(Command::LoginRequest, 7, &login(5, WINDOWS)).await;
    let (link, slow) = world.db.next_verify().await;
    // Time itself: what came closer together is not told apart.
    tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    let mut later = world.connect().await;
    later.send(Command::LoginRequest, 8, &login(5, WINDOWS)).await;
    let (_link, quick) = world.db.next_verify().await;
    world.db.verify(&link, quick);
    later.expect::<client::LoginReply>(Command::LoginReply, 8).await;
    world.db.verify(&link, slow);
    early.expect::<client::LoginReply>(Command::LoginReply, 7).await;
    early.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    early.expect_closed().await;
    later.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_refused_client_is_told_why_and_then_closed() {
    let world = World::start().await;
    let mut client = world.connect().await;
    let wrong = client::LoginRequest { password: "guess".to_owned(), ..login(5, WINDOWS) };
    client.send(Command::LoginRequest, 3, &wrong).await;
    let reply: client::LoginReply = client.expect(Command::LoginReply, 3).await;
    assert_eq!((reply.result, reply.result_text()), (6, "says storage"));
    assert!(reply.user_info.is_none());
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn without_storage_nobody_gets_in() {
    let world = World::start().await;
    world.stop_db().await;
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 3, &login(5, WINDOWS)).await;
    let reply: client::LoginReply = client.expect(Command::LoginReply, 3).await;
    assert_eq!(reply.result, i32::from(client::LoginResult::NoDbServer));
    client.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_replica_that_does_not_confirm_is_reset_and_the_login_goes_on_without_any() {
    let world = World::start().await;
    world.hub.confirms.store(false, Ordering::SeqCst);
    let mut client = world.connect().await;
    client.send(Command::LoginRequest, 3, &login(5, WINDOWS)).await;
    let reply: client::LoginReply = client.expect(Command::LoginReply, 3).await;
    assert_eq!(reply.result, i32::from(client::LoginResult::Accepted));
    world.stop().await;
}

#[tokio::test]
async fn a_second_login_of_the_class_throws_the_first_out_and_another_class_does_not() {
    let world = World::start().await;
    let mut first = world.client(5, WINDOWS).await;
    let mut phone = world.client(5, ANDROID).await;
    let mut second = world.client(5, MAC).await;
    let kick: client::KickNotify = first.expect(Command::KickNotify, 0).await;
    assert_eq!((kick.user_id, kick.reason), (5, 1));
    first.expect_closed().await;
    phone.expect_quiet().await;
    second.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_login_raises_its_epoch_above_the_largest_that_the_hub_knows() {
    let world = World::start().await;
    let larger = u64::MAX / 2;
    world.hub.larger_epoch.store(larger, Ordering::SeqCst);
    let mut client = world.client(5, WINDOWS).await;
    world.hub.next_change().await;
    let second = world.hub.next_change().await;
    assert_eq!(second.add_users[0].epoch, larger + 1);

    // What comes over the hub's link after the kick shows that the kick was judged.
    world.hub.send(Kind::Kick, &kick_below(larger + 1));
    world.hub.send(Kind::Forward, &typing(5));
    client.expect::<client::PeerSignal>(Command::PeerSignal, 0).await;
    world.hub.send(Kind::Kick, &kick_below(larger + 2));
    client.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    client.expect_closed().await;
    world.stop().await;
}

/// Clocks differ: a kick may come from a login that was there before, with a larger epoch.
#[tokio::test]
async fn a_session_that_came_after_the_login_for_which_it_should_end_stays_and_rises() {
    let world = World::start().await;
    let mut client = world.client(5, WINDOWS).await;
    world.hub.next_change().await;
    let larger = u64::MAX / 2;
    let hour = wire::Kick { winner_age_us: Some(3_600_000_000), ..kick_below(larger) };
    world.hub.send(Kind::Kick, &hour);
    let told = world.hub.next_change().await;
    assert_eq!(told.add_users[0].epoch, larger + 1);
    world.hub.send(Kind::Forward, &typing(5));
    client.expect::<client::PeerSignal>(Command::PeerSignal, 0).await;
    let now = wire::Kick { winner_age_us: Some(0), ..kick_below(larger + 2) };
    world.hub.send(Kind::Kick, &now);
    client.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    client.expect_closed().await;
    world.stop().await;
}

fn kick_below(epoch: u64) -> wire::Kick {
    wire::Kick {
        user: 5,
        device_class: Some(0),
        below_epoch: Some(epoch),
        reason: Some(1),
        ..wire::Kick::default()
    }
}

fn typing(user: u32) -> wire::Forward {
    let signal = client::PeerSignal { to_user_id: user, ..client::PeerSignal::default() };
    wire::Forward {
        users: vec![user],
        frame: encode_message(Command::PeerSignal, 0, &signal),
        ..wire::Forward::default()
    }
}

#[tokio::test]
async fn a_phone_is_told_that_a_pc_is_there_and_can_throw_it_out() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    world.hub.pc_online.store(true, Ordering::SeqCst);
    let mut phone = world.client(5, ANDROID).await;
    let status: client::PcStatusNotify = phone.expect(Command::PcStatusNotify, 0).await;
    assert_eq!(status.status(), client::UserStatus::Online);

    phone.send(Command::KickPcRequest, 4, &client::KickPcRequest { user_id: 0 }).await;
    phone.expect::<client::KickPcReply>(Command::KickPcReply, 4).await;
    let kick: client::KickNotify = pc.expect(Command::KickNotify, 0).await;
    assert_eq!(kick.reason, 2);
    pc.expect_closed().await;
    world.stop().await;
}

#[tokio::test]
async fn a_logout_is_answered_and_takes_the_session_out() {
    let world = World::start().await;
    let mut phone = world.client(5, ANDROID).await;
    world.hub.next_change().await;
    phone.send(Command::LogoutRequest, 9, &client::LogoutRequest::default()).await;
    phone.expect::<client::LogoutReply>(Command::LogoutReply, 9).await;
    phone.expect_closed().await;
    assert_eq!(world.db.next_ask().await.command, 0x0105, "the device token is forgotten");
    let change = world.hub.next_change().await;
    assert_eq!(change.remove_users[0].user, 5);
    world.stop().await;
}

#[tokio::test]
async fn the_end_of_a_displaced_session_takes_nothing_from_the_newer_one() {
    let world = World::start().await;
    let mut old = world.client(5, WINDOWS).await;
    let first = world.hub.next_change().await.add_users[0];
    let mut new = world.client(5, WINDOWS).await;
    let second = world.hub.next_change().await.add_users[0];
    assert!(second.epoch > first.epoch);
    old.expect::<client::KickNotify>(Command::KickNotify, 0).await;
    old.expect_closed().await;
    drop(old);
    let removed = world.hub.next_change().await.remove_users;
    assert_eq!(removed, [wire::UserInterest { age_us: None, ..first }], "by session and epoch");
    world.hub.send(Kind::Publish, &publish(single(5, 6), 1, 6));
    assert_eq!(new.expect_push().await.msg_id, 1);
    world.stop().await;
}

/// What db_proxy sends when a password was changed, and the row's stamp is `before` since.
fn ended_before(before: u32) -> wire::Kick {
    wire::Kick { user: 5, reason: Some(1), verified_before: Some(before), ..wire::Kick::default() }
}

#[tokio::test]
async fn a_changed_password_ends_what_was_checked_before_it_and_nothing_else() {
    let world = World::start().await;
    let mut pc = world.client(5, WINDOWS).await;
    let mut other = world.client(6, WINDOWS).await;
    world.db.stamp.store(2, Ordering::SeqCst);
    let mut phone = world.client(5, ANDROID).await;

    world.db.link().send(Kind::Kick.number(), 0, &ended_before(2)).unwrap();
    let kick: client::KickNotify = pc.expect(Command::KickNotify, 0).await;
    assert_eq!((kick.user_id, kick.reason), (5, 1));
    pc.expect_closed().await;
    phone.expect_quiet().await;
    other.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn a_login_that_was_checked_before_the_password_changed_does_not_slip_in_after_it() {
    let world = World::start().await;
    world.db.holds_verdicts.store(true, Ordering::SeqCst);
    world.is_changed_during_a_login().await;

    // What was checked after the change gets in.
    world.db.stamp.store(2, Ordering::SeqCst);
    world.db.holds_verdicts.store(false, Ordering::SeqCst);
    world.client(5, WINDOWS).await.expect_quiet().await;
    world.stop().await;
}

#[tokio::test]
async fn what_says_too_little_of_a_user_is_no_answer() {
    let world = World::start().await;
    world.db.holds_verdicts.store(true, Ordering::SeqCst);
    for (user, user_info) in
        [(Some(5), None), (Some(5), Some("no record".into())), (Some(0), None), (None, None)]
    {
        let mut client = world.connect().await;
        client.send(Command::LoginRequest, 3, &login(5, WINDOWS)).await;
        let (link, frame, verified) = world.verdict().await;
        let verified = wire::Verified { user, user_info, ..verified };
        link.answer(&frame, frame.kind, &verified).unwrap();
        let reply: client::LoginReply = client.expect(Command::LoginReply, 3).await;
        assert_eq!(reply.result, i32::from(client::LoginResult::NoDbServer), "{verified:?}");
        client.expect_closed().await;
    }
    world.stop().await;
}

#[tokio::test]
async fn a_login_that_was_checked_before_the_password_changed_throws_nobody_out() {
    let world = World::start().await;
    world.db.stamp.store(2, Ordering::SeqCst);
    let mut newer = world.client(5, WINDOWS).await;
    world.db.stamp.store(1, Ordering::SeqCst);
    world.db.holds_verdicts.store(true, Ordering::SeqCst);
    world.is_changed_during_a_login().await;
    newer.expect_quiet().await;
    world.stop().await;
}

impl World {
    /// User 5 logs in, and the kick after a changed password passes between the check and the session: the
    /// login is refused.
    async fn is_changed_during_a_login(&self) {
        let mut late = self.connect().await;
        late.send(Command::LoginRequest, 3, &login(5, WINDOWS)).await;
        let (link, frame, verified) = self.verdict().await;
        link.send(Kind::Kick.number(), 0, &ended_before(2)).unwrap();
        link.answer(&frame, frame.kind, &verified).unwrap();
        let reply: client::LoginReply = late.expect(Command::LoginReply, 3).await;
        assert_eq!(reply.result, i32::from(client::LoginResult::BadCredentials));
        late.expect_closed().await;
    }

    /// The verdict that storage holds back.
    async fn verdict(&self) -> (daemon::Link, daemon::LinkFrame, wire::Verified) {
        loop {
            if let Some(held) = self.db.verdicts.lock().pop() {
                return held;
            }
            tokio::task::yield_now().await;
        }
    }
}
