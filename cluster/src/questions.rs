//! Questions to all nodes, and their answers.

use std::{
    collections::{HashMap, HashSet},
    sync::Mutex,
};

use bytes::{Buf, BufMut, Bytes};
use tokio::sync::oneshot;

use crate::{
    Node, NodeId,
    cards::{read_cards, write_cards},
    lock,
};

/// Member of a topic, on any node.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub struct Member {
    /// The card that it joined with.
    pub card: String,
    /// The node that it is connected to.
    pub node: NodeId,
}

/// Members of a topic on all nodes; see [`ClusterTopics::ask`](crate::ClusterTopics::ask).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Answers {
    /// The members, in no particular order.
    pub members: Vec<Member>,
    /// Living nodes that have not answered in time. Their members are not in the list.
    pub missing: Vec<Node>,
}

/// Questions of this node that await answers.
#[derive(Default)]
pub(crate) struct Questions(Mutex<HashMap<u64, Question>>);

struct Question {
    waiting: HashSet<NodeId>,
    members: Vec<Member>,
    complete: Option<oneshot::Sender<()>>,
}

impl Questions {
    /// Registers a question to `nodes`. The receiver is ready when all have answered.
    pub(crate) fn begin(
        &self,
        id: u64,
        nodes: impl IntoIterator<Item = NodeId>,
    ) -> oneshot::Receiver<()> {
        let (complete, done) = oneshot::channel();
        let question = Question {
            waiting: nodes.into_iter().collect(),
            members: Vec::new(),
            complete: Some(complete),
        };
        let mut question = question;
        question.complete_if_answered();
        lock(&self.0).insert(id, question);
        done
    }

    /// Takes the answer of a node. `is_last` is `false` if more of its members follow.
    pub(crate) fn answer(&self, id: u64, node: NodeId, cards: Vec<String>, is_last: bool) {
        let mut questions = lock(&self.0);
        let Some(question) = questions.get_mut(&id) else {
            return;
        };
        let members = cards.into_iter().map(|card| Member { card, node });
        question.members.extend(members);
        if is_last {
            question.waiting.remove(&node);
            question.complete_if_answered();
        }
    }

    /// Takes note of a node that is gone and will not answer.
    pub(crate) fn forget(&self, node: NodeId) {
        for question in lock(&self.0).values_mut() {
            if question.waiting.remove(&node) {
                question.complete_if_answered();
            }
        }
    }

    /// Ends a question. Returns the members, and the nodes that have not answered.
    pub(crate) fn end(&self, id: u64) -> (Vec<Member>, HashSet<NodeId>) {
        let question = lock(&self.0).remove(&id);
        question.map_or_else(Default::default, |question| {
            (question.members, question.waiting)
        })
    }
}

impl Question {
    fn complete_if_answered(&mut self) {
        if self.waiting.is_empty()
            && let Some(complete) = self.complete.take()
        {
            let _ = complete.send(());
        }
    }
}

/// Writes answers of at most `max` bytes each.
pub(crate) fn write_answers(id: u64, cards: &[String], max: usize) -> Vec<Bytes> {
    write_cards(cards, max, |answer, _| answer.put_u64(id))
}

/// Reads an answer: the question, the cards, and whether it is the last of its node.
pub(crate) fn read_answer(mut bytes: Bytes) -> Option<(u64, Vec<String>, bool)> {
    let id = bytes.try_get_u64().ok()?;
    let (is_last, cards) = read_cards(bytes)?;
    Some((id, cards, is_last))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_are_the_same_after_answers_of_bounded_length() {
        let cards: Vec<String> = (0..100).map(|n| format!("card {n}")).collect();
        let answers = write_answers(7, &cards, 100);
        assert!(answers.len() > 10 && answers.iter().all(|answer| answer.len() <= 100));
        let read: Vec<_> = answers
            .into_iter()
            .map(|answer| read_answer(answer).unwrap())
            .collect();
        let last: Vec<bool> = read.iter().map(|answer| answer.2).collect();
        assert_eq!(last.iter().filter(|last| **last).count(), 1);
        assert_eq!(last.last(), Some(&true));
        let all: Vec<String> = read.into_iter().flat_map(|answer| answer.1).collect();
        assert_eq!(all, cards);
        assert_eq!(
            read_answer(write_answers(7, &[], 100).remove(0)),
            Some((7, vec![], true))
        );
    }

    #[test]
    fn any_bytes_are_an_answer_or_none() {
        assert_eq!(read_answer(Bytes::from_static(b"123")), None);
        assert_eq!(
            read_answer(Bytes::from_static(b"12345678\x01\xff\xff\xff\xff")),
            None
        );
        assert_eq!(
            read_answer(Bytes::from_static(b"12345678\x01\0\0\0\x01\xff")),
            None
        );
    }

    #[test]
    fn question_is_complete_without_nodes_and_with_the_last_answer() {
        let questions = Questions::default();
        assert!(questions.begin(1, []).try_recv().is_ok());
        let mut done = questions.begin(2, [NodeId(1), NodeId(2), NodeId(3)]);
        questions.answer(2, NodeId(1), vec!["a".to_owned()], false);
        questions.answer(2, NodeId(1), vec!["b".to_owned()], true);
        questions.forget(NodeId(2));
        assert!(done.try_recv().is_err());
        questions.answer(2, NodeId(3), vec![], true);
        assert!(done.try_recv().is_ok());
        let (members, missing) = questions.end(2);
        assert_eq!((members.len(), missing.len()), (2, 0));
        questions.answer(2, NodeId(3), vec!["late".to_owned()], true);
    }
}
