//! One run of taking, renewing or giving back a lease.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::entity::Actor;
use crate::error::{Limit, Result};
use crate::group::{Attempt, Group, Verdict};
use crate::lease::hold::Hold;
use crate::lease::{Held, Leasable, Lease};
use crate::log::Room;
use crate::map::KeyBuf;
use crate::retry::{Phase, Retrying, Settled, Task};
use crate::store::Inner;
use crate::turns::Place;
use crate::version::Version;

pub(super) struct Run<'a> {
    pub(super) store: &'a Arc<Inner>,
    pub(super) leased: Arc<dyn Leasable>,
    pub(super) key: KeyBuf,
    pub(super) step: Step,
}

pub(super) enum Step {
    Take { ttl: Duration, reason: Option<String>, holder: Option<Actor> },
    Renew { token: Version, ttl: Duration },
    Release { token: Version },
}

/// A lease that is about to change.
pub(super) struct Prepared {
    group: Group,
    holder: Option<Actor>,
}

impl Run<'_> {
    fn held(&self, token: Version) -> Held {
        Held { leased: Arc::clone(&self.leased), key: self.key.clone(), token }
    }

    fn ttl(&self) -> Duration {
        match self.step {
            Step::Take { ttl, .. } | Step::Renew { ttl, .. } => ttl,
            Step::Release { .. } => Duration::ZERO,
        }
    }

    /// # Errors
    /// [`Limit`](crate::Error::Limit).
    fn check(&self) -> Result<()> {
        let (limits, place) = (&self.store.limits, || self.leased.place(&self.key));
        let millis = usize::try_from(self.ttl().as_millis()).unwrap_or(usize::MAX);
        limits.check(Limit::LeaseMillis, millis, place)?;
        let Step::Take { reason, holder, .. } = &self.step else { return Ok(()) };
        let collection = || self.leased.name().as_ref().to_owned();
        limits.check(Limit::KeyBytes, self.key.len(), collection)?;
        let holder = holder.as_ref().map_or(0, |holder| holder.as_str().len());
        limits.check(Limit::ActorBytes, holder, place)?;
        let reason = reason.as_ref().map_or(0, String::len);
        limits.check(Limit::LeaseReasonBytes, reason, place)
    }

    /// The change of the lease, on what there is of it now.
    fn stage(&self, group: &mut Group) -> Result<Option<Actor>> {
        let (token, ttl) = match &self.step {
            Step::Take { ttl, reason, holder } => {
                let hold = Hold { ttl: *ttl, reason: reason.clone(), ..Hold::default() };
                group.take_lease(self.store, &self.leased, &self.key, hold)?;
                return Ok(holder.clone());
            }
            Step::Renew { token, ttl } => (*token, Some(*ttl)),
            Step::Release { token } => (*token, None),
        };
        let held = self.held(token);
        let (map, entry) = (&self.store.leases.entries.map, held.entry());
        let seen = map.newest(map.hash(&entry), &entry);
        let terms = group.leases(self.store);
        let Some(record) = seen.live().cloned() else {
            // There is nothing to change, and who holds nothing is told so.
            terms.rely_on(&held);
            return Ok(None);
        };
        terms.change(&held, seen, ttl.map(|ttl| record.renewed(ttl)));
        Ok(record.metadata.written_by.clone())
    }

    fn landed(&self, version: Version, written_at: Timestamp) -> Lease {
        let token = match self.step {
            Step::Take { .. } => version,
            Step::Renew { token, .. } | Step::Release { token } => token,
        };
        let expires_at = Some(written_at.after(self.ttl()));
        Lease { store: Arc::clone(self.store), held: self.held(token), expires_at }
    }
}

impl Task for Run<'_> {
    type Seen = ();
    type Prepared = Prepared;
    type Answer = Lease;
    type Left = Group;

    fn place(&self) -> Option<Place> {
        None
    }

    fn compute(&mut self, _: Option<()>, retrying: &mut Retrying<'_>) -> Result<Phase<Self>> {
        self.check()?;
        let mut group = Group::default();
        let holder = self.stage(&mut group)?;
        let payload = group.prepare(retrying.store, holder.as_ref())?;
        Ok(Phase::Write { prepared: Prepared { group, holder }, payload })
    }

    fn attempt(
        &mut self,
        prepared: Prepared,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let (store, by_future) = (retrying.store, retrying.by_future);
        let (Prepared { mut group, holder }, mut verdict) = (prepared, Verdict::default());
        let attempt = group.attempt(store, None, holder.as_ref(), room, by_future, &mut verdict)?;
        let rests_on = verdict.rests_on;
        let decided_at = match attempt {
            Attempt::Landed(Some(stamp)) => {
                let version = Version::new(stamp.version).unwrap_or(Version::FIRST);
                if !matches!(self.step, Step::Release { .. }) {
                    let at = store.clock.monotonic().saturating_add(self.ttl());
                    store.leases.keep_deadline(self.store, at);
                }
                retrying.finish();
                let answer = Ok(self.landed(version, stamp.written_at));
                let (rests_on, left) = (rests_on.max(stamp.version), Some(group));
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            Attempt::Refused { decided_at } => decided_at,
            _ => return Ok(Phase::Try(None)),
        };
        // Renewed or taken since it was read.
        if verdict.moved
            && let Some(place) = group.lost_at()
            && let Some(phase) = retrying.after_loss(place, None)
        {
            return Ok(phase);
        }
        let spent = retrying.finish();
        match group.into_conflict(store, decided_at, verdict.moved.then_some(spent)) {
            Some(conflict) => Ok(Phase::nothing(Err(conflict.into()), rests_on)),
            None => Ok(Phase::Try(None)),
        }
    }
}
