//! Hooks on the way of a message: whether they are asked, and what follows from what they say.
//!
//! ```text
//! new ────────────────────────────► asked ──► it passes: handed over
//!                                     ▲  └──► refused: it ends
//! sent before ──► looked for ── not known
//!                     └── known, or refused: it ends, and nobody is asked
//! ```
//!
//! A message that may have been sent before is first looked for at its owner. If that has moved, the next one
//! looks. What an owner says that has lost the partition does not count, except that the message is stored.

use std::collections::VecDeque;
use std::sync::Arc;

use proto::cluster::wire::Submit;
use tokio::sync::Notify;

use super::table::{QuestionId, Stage};
use crate::hooks::{Hooks, Verdict};

/// A message that hooks are to be asked about.
#[derive(Debug)]
pub(super) struct Question {
    id: QuestionId,
    hooks: Arc<Hooks>,
    submit: Submit,
}

/// The hooks in use, and the questions that nobody has asked yet: no more than there are unanswered messages.
#[derive(Debug, Default)]
pub(super) struct Questions {
    hooks: Option<Arc<Hooks>>,
    new: VecDeque<Question>,
    there_are: Arc<Notify>,
}

impl Questions {
    /// What is to happen to a message before it is stored.
    pub(super) fn stage_of(&self, submit: &Submit) -> Stage {
        if !self.hooks.as_ref().is_some_and(|hooks| hooks.want(submit)) {
            return Stage::Ready;
        }
        if submit.resend() || submit.may_repeat() { Stage::LookedFor } else { Stage::Asked }
    }

    /// From now on these hooks are asked.
    pub(super) fn set_hooks(&mut self, hooks: Option<Arc<Hooks>>) {
        self.hooks = hooks;
    }

    /// Has them asked about a message. `false` if a reload has taken them away meanwhile: there is nobody to ask.
    pub(super) fn ask(&mut self, id: QuestionId, submit: &Submit) -> bool {
        let Some(hooks) = self.hooks.clone() else { return false };
        self.new.push_back(Question { id, hooks, submit: submit.clone() });
        self.there_are.notify_one();
        true
    }

    /// The questions that nobody has asked yet.
    pub(super) fn take(&mut self) -> VecDeque<Question> {
        std::mem::take(&mut self.new)
    }

    /// Tells when there are questions.
    pub(super) fn there_are(&self) -> Arc<Notify> {
        Arc::clone(&self.there_are)
    }
}

impl Question {
    pub(super) async fn ask(self) -> (QuestionId, Verdict) {
        (self.id, self.hooks.ask(&self.submit).await)
    }
}
