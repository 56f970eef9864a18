//! Signatures and pictures: what everybody is told when a user changes one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use db_client::owners::{ASK_LIMIT, Asked};
use prost::Message;
use proto::client::{self, UserInfo};
use proto::cluster::wire::AskStatus;
use proto::ids::UserId;
use proto::{Command, Frame, StorageCommand};
use tokio::time::Instant;
use tracing::{Span, debug};

use crate::gateway::Gateway;
use crate::sessions::session::Session;
use crate::updates::news::{ProfileChange, Topic};

/// How long the last news may take when the gateway stops.
const LAST_NEWS_LIMIT: Duration = Duration::from_secs(2);

impl Gateway {
    /// A session has changed its user's signature; `answer` is what it was answered.
    pub(crate) fn signature_changed(&self, session: &Session, request: &Frame, answer: Bytes) {
        let reply = client::ChangeSignatureReply::decode(answer);
        let asked = request.parse::<client::ChangeSignatureRequest>();
        if let (Ok(reply), Ok(asked)) = (reply, asked)
            && reply.result_code == 0
            && self.is_told_now(session, Topic::Signature)
        {
            self.tell_signature(session.user(), reply.signature.unwrap_or(asked.signature));
        }
    }

    /// A session has changed its user's picture; `answer` is what it was answered.
    pub(crate) fn avatar_changed(&self, session: &Session, request: &Frame, answer: Bytes) {
        let reply = client::ChangeAvatarReply::decode(answer);
        let asked = request.parse::<client::ChangeAvatarRequest>();
        if let (Ok(reply), Ok(asked)) = (reply, asked)
            && reply.result_code == 0
            && self.is_told_now(session, Topic::Avatar)
        {
            self.tell_avatar(session.user(), asked.avatar_url);
        }
    }

    fn is_told_now(&self, session: &Session, topic: Topic) -> bool {
        let news = ProfileChange { topic, by: self.parts.asker(session) };
        let told = self.news.lock().changed(news, self.parts.now_us());
        if !told {
            self.parts.metrics.news_joined.inc();
        }
        told
    }

    /// Tells what has waited for long enough.
    pub(crate) fn tell_due_news(self: &Arc<Self>) {
        let due = self.news.lock().due(self.parts.now_us());
        if due.is_empty() {
            return;
        }
        let gateway = Arc::clone(self);
        self.parts.shutdown.spawn(Span::current(), async move {
            for news in due {
                if !gateway.tell_what_is_in_force(news, Instant::now() + ASK_LIMIT).await {
                    gateway.news.lock().put_back(news, gateway.parts.now_us());
                }
            }
        });
    }

    /// Tells everything that waits: the gateway stops.
    pub(crate) async fn tell_last_news(&self) {
        let until = Instant::now() + LAST_NEWS_LIMIT;
        let waiting = self.news.lock().take_all();
        for news in waiting {
            if !self.tell_what_is_in_force(news, until).await {
                // It is stored: clients hear of it when they next ask for users.
                debug!(user = news.by.user.0, "a change was told to nobody");
            }
        }
    }

    /// Asks storage what the user's signature or picture is now, and tells that. Whether it is known.
    async fn tell_what_is_in_force(&self, news: ProfileChange, until: Instant) -> bool {
        let user = news.by.user.0;
        let request = client::UsersInfoRequest {
            user_id: user,
            user_ids: vec![user],
            ..client::UsersInfoRequest::default()
        };
        let asked = Asked::of(StorageCommand::UsersInfoRequest, request.encode_to_vec().into());
        let answer = match self.parts.storage.ask(news.by, asked, until).await {
            Ok(answer) if answer.status() == AskStatus::Answered => answer,
            Ok(_) | Err(_) => return false,
        };
        let reply = client::UsersInfoReply::decode(answer.body.unwrap_or_default());
        let info = reply.unwrap_or_default().users.into_iter().find(|info| info.user_id == user);
        // Nobody needs to hear of a user who is gone.
        if let Some(info) = info {
            self.tell_profile(news.topic, info);
        }
        true
    }

    fn tell_profile(&self, topic: Topic, info: UserInfo) {
        let user = UserId(info.user_id);
        match topic {
            Topic::Signature => {
                self.tell_signature(user, info.signature.unwrap_or_default());
            }
            Topic::Avatar => self.tell_avatar(user, info.avatar_url),
        }
    }

    fn tell_signature(&self, user: UserId, signature: String) {
        let user_id = user.0;
        let notify = client::SignatureChangedNotify { user_id, signature };
        self.tell_everybody(Command::SignatureChangedNotify, &notify);
    }

    fn tell_avatar(&self, user: UserId, avatar_url: String) {
        let user_id = user.0;
        let notify = client::AvatarChangedNotify { user_id, avatar_url };
        self.tell_everybody(Command::AvatarChangedNotify, &notify);
    }
}
