//! Requests as text lines with ids.

use getty::layers::Correlate;

/// Correlates lines such as `ask 7 what` and `answer 7 that`. All other lines are notices.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words;

impl Correlate<String> for Words {
    fn put(&self, id: u64, message: &mut String) {
        message.insert_str(0, &format!("ask {id} "));
    }

    fn response_id(&self, message: &String) -> Option<u64> {
        message
            .strip_prefix("answer ")?
            .split(' ')
            .next()?
            .parse()
            .ok()
    }
}
