//! Lanes: what is decided one after another, in the order in which it came (P3). There is one for each conversation, room or account that
//! something is being decided about; one that is idle is not there.
//!
//! Invariants: whoever enters a lane comes after all who entered it before; a lane goes on when its head leaves or is given up, whatever
//! happens to it; lanes do not know each other.

use cartulary_compliance::derive::Key;
use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// All lanes that are not idle.
#[derive(Default)]
pub struct Lanes {
    /// Those who wait behind the head, in order.
    busy: Mutex<HashMap<Key, VecDeque<oneshot::Sender<()>>>>,
}

/// A place in a lane; giving it up lets the next one go.
pub struct Ticket {
    lanes: Arc<Lanes>,
    key: Key,
    /// `None` at the head.
    waiting: Option<oneshot::Receiver<()>>,
}

impl Lanes {
    fn busy(&self) -> MutexGuard<'_, HashMap<Key, VecDeque<oneshot::Sender<()>>>> {
        self.busy.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether no lane is in use.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.busy().is_empty()
    }

    /// Whether somebody is in this lane.
    #[must_use]
    pub fn is_busy(&self, key: &Key) -> bool {
        self.busy().contains_key(key)
    }

    /// Takes the place behind all others of this lane.
    #[must_use]
    pub fn enter(self: &Arc<Self>, key: Key) -> Ticket {
        let mut busy = self.busy();
        let waiting = if let Some(others) = busy.get_mut(&key) {
            let (turn, waiting) = oneshot::channel();
            others.push_back(turn);
            Some(waiting)
        } else {
            busy.insert(key.clone(), VecDeque::new());
            None
        };
        drop(busy);
        Ticket { lanes: Arc::clone(self), key, waiting }
    }
}

impl Ticket {
    /// Waits until everybody before has left.
    pub async fn turn(&mut self) {
        if let Some(waiting) = &mut self.waiting {
            // Only a head that leaves lets go, so an error cannot be; it would be no reason to wait either.
            _ = waiting.await;
            self.waiting = None;
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut busy = self.lanes.busy();
        // One that never had its turn is passed over by whoever lets the next one go; under the lock it cannot get it now.
        if self.waiting.as_mut().is_some_and(|waiting| waiting.try_recv().is_err()) {
            return;
        }
        if let Some(others) = busy.get_mut(&self.key) {
            while let Some(next) = others.pop_front() {
                if next.send(()).is_ok() {
                    return;
                }
            }
            busy.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    fn goes(ticket: &mut Ticket) -> bool {
        ticket.turn().now_or_never().is_some()
    }

    #[test]
    fn p_3_a_lane_is_strictly_first_in_first_out_and_no_other_waits_for_it() {
        let lanes = Arc::new(Lanes::default());
        let mut one: Vec<Ticket> = (0..4).map(|_| lanes.enter(Key::of("one"))).collect();
        let mut other = lanes.enter(Key::of("other"));
        assert!(goes(&mut other));
        while !one.is_empty() {
            assert!(goes(&mut one[0]));
            assert!(one.iter_mut().skip(1).all(|behind| !goes(behind)));
            one.remove(0);
        }
        drop(other);
        assert!(lanes.is_idle(), "an idle lane costs nothing");
    }

    #[test]
    fn whoever_gives_up_waiting_or_is_given_up_with_its_turn_holds_up_nobody() {
        let lanes = Arc::new(Lanes::default());
        let key = || Key::of("one");
        let (head, gone, mut third) = (lanes.enter(key()), lanes.enter(key()), lanes.enter(key()));
        drop(gone);
        assert!(!goes(&mut third));
        drop(head);
        assert!(goes(&mut third));
        // It has its turn and does not know it yet.
        let (fourth, mut fifth) = (lanes.enter(key()), lanes.enter(key()));
        drop(third);
        drop(fourth);
        assert!(goes(&mut fifth));
        drop(fifth);
        assert!(lanes.is_idle());
    }
}
