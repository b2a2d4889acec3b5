//! What may be: the states of something whose last step has landed, or has not.

use std::fmt::Debug;

use super::Violation;

/// The possible states.
#[derive(Clone, Debug)]
pub struct Worlds<W> {
    possible: Vec<W>,
    /// Those in which the step under way has landed.
    after: Vec<W>,
}

impl<W: Default> Default for Worlds<W> {
    fn default() -> Worlds<W> {
        Worlds { possible: vec![W::default()], after: Vec::new() }
    }
}

impl<W: Clone + PartialEq + Debug> Worlds<W> {
    /// A step is under way, and so none before it is. `step` says what it would make of a state,
    /// if it can be taken there.
    pub fn ask(&mut self, step: impl Fn(&W) -> Option<W>) {
        self.settle();
        self.after = self.possible.iter().filter_map(step).collect();
    }

    /// The step has landed, where `fits` says so; it may note what the answer told.
    pub fn landed(
        &mut self,
        what: &dyn Debug,
        fits: impl FnMut(&mut W) -> bool,
    ) -> Result<(), Violation> {
        let before = std::mem::take(&mut self.possible);
        self.possible = std::mem::take(&mut self.after);
        self.possible.retain_mut(fits);
        self.not_empty(&before, what)
    }

    /// The step was not taken, where `fits` says so.
    pub fn refused(
        &mut self,
        what: &dyn Debug,
        fits: impl FnMut(&W) -> bool,
    ) -> Result<(), Violation> {
        self.after.clear();
        let before = self.possible.clone();
        self.possible.retain(fits);
        self.not_empty(&before, what)
    }

    /// Something was seen, where `fits` says so; it may note what that told.
    pub fn seen(
        &mut self,
        what: &dyn Debug,
        fits: impl FnMut(&mut W) -> bool,
    ) -> Result<(), Violation> {
        self.settle();
        let before = self.possible.clone();
        self.possible.retain_mut(fits);
        self.not_empty(&before, what)
    }

    /// The one state that there is, if only one is possible.
    pub fn only(&mut self) -> Option<&mut W> {
        self.settle();
        match &mut self.possible[..] {
            [one] => Some(one),
            _ => None,
        }
    }

    pub fn any(&mut self) -> &[W] {
        self.settle();
        &self.possible
    }

    fn settle(&mut self) {
        for after in self.after.drain(..) {
            if !self.possible.contains(&after) {
                self.possible.push(after);
            }
        }
    }

    /// What an answer told may have made two states one. None fits: that is a violation.
    fn not_empty(&mut self, before: &[W], what: &dyn Debug) -> Result<(), Violation> {
        let mut all = std::mem::take(&mut self.possible);
        while let Some(one) = all.pop() {
            if !all.contains(&one) {
                self.possible.push(one);
            }
        }
        match self.possible.is_empty() {
            true => Err(format!("{what:?}, but it was {before:?}")),
            false => Ok(()),
        }
    }
}
