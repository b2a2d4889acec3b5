//! One run of taking, renewing or giving back a lease.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Timestamp;
use crate::commit::Terms;
use crate::entity::{Actor, Metadata};
use crate::error::{Limit, Result};
use crate::group::{Attempt, Group, Verdict};
use crate::ids::{Caller, Claim};
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
    pub(super) caller: Caller,
}

pub(super) enum Step {
    /// The caller is the holder.
    Take {
        ttl: Duration,
        reason: Option<String>,
    },
    Renew {
        token: Version,
        ttl: Duration,
    },
    Release {
        token: Version,
    },
}

/// A lease that is about to change.
pub(super) struct Prepared {
    group: Group,
    holder: Option<Actor>,
    terms: Terms,
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
        let Step::Take { reason, .. } = &self.step else { return Ok(()) };
        let collection = || self.leased.name().as_ref().to_owned();
        limits.check(Limit::KeyBytes, self.key.len(), collection)?;
        let reason = reason.as_ref().map_or(0, String::len);
        limits.check(Limit::LeaseReasonBytes, reason, place)
    }

    /// What the operation id stands for: the step, and all that the caller says of it.
    ///
    /// # Errors
    /// [`Limit`](crate::Error::Limit).
    fn claim(&self) -> Result<Option<Claim>> {
        let (verb, token, reason): (&[u8], _, _) = match &self.step {
            Step::Take { reason, .. } => (b"lease", 0, reason.as_deref()),
            Step::Renew { token, .. } => (b"renew", token.get(), None),
            Step::Release { token } => (b"release", token.get(), None),
        };
        let (token, ttl) = (token.to_le_bytes(), self.ttl().as_micros().to_le_bytes());
        let name = self.leased.name().as_bytes();
        let target = [verb, name, &self.key, &token, &ttl, reason.unwrap_or_default().as_bytes()];
        // No reason is not the same as an empty one.
        let said = target.len() - usize::from(reason.is_none());
        let place = || self.leased.place(&self.key);
        self.caller.claim(&self.store.limits, target.split_at(said).0, place)
    }

    /// The change of the lease, on what there is of it now.
    fn stage(&self, group: &mut Group) -> Result<Option<Actor>> {
        let (token, ttl) = match &self.step {
            Step::Take { ttl, reason } => {
                let hold = Hold { ttl: *ttl, reason: reason.clone(), ..Hold::default() };
                group.take_lease(self.store, &self.leased, &self.key, hold)?;
                return Ok(self.caller.actor.clone());
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

    /// The lease as the step left it, which had landed before if `replayed`.
    fn landed(&self, version: Version, written_at: Timestamp, replayed: bool) -> Lease {
        let token = match self.step {
            Step::Take { .. } => version,
            Step::Renew { token, .. } | Step::Release { token } => token,
        };
        let expires_at = Some(written_at.after(self.ttl()));
        Lease { store: Arc::clone(self.store), held: self.held(token), expires_at, replayed }
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
        let store = retrying.store;
        self.check()?;
        let terms = Terms { claim: self.claim()?, held: None };
        if let Some(claim) = &terms.claim
            && let Some(record) = store.ids.find(claim, store.now())
        {
            let Metadata { version, written_at, .. } = record.metadata;
            let checked = record.check(claim, self.caller.id());
            let answer = checked.map(|()| self.landed(version, written_at, true));
            return Ok(Phase::nothing(answer, version.get()));
        }
        let mut group = Group::default();
        let holder = self.stage(&mut group)?;
        let claim = terms.claim.as_ref().map_or(0, |claim| claim.payload(&store.ids));
        let payload = group.prepare(store, holder.as_ref())? + claim;
        Ok(Phase::Write { prepared: Prepared { group, holder, terms }, payload })
    }

    fn attempt(
        &mut self,
        prepared: Prepared,
        room: Room<'_>,
        retrying: &mut Retrying<'_>,
    ) -> Result<Phase<Self>> {
        let (store, by_future) = (retrying.store, retrying.by_future);
        let (Prepared { mut group, holder, terms }, mut verdict) = (prepared, Verdict::default());
        let (terms, holder) = (Some(&terms), holder.as_ref());
        let attempt = group.attempt(store, terms, holder, room, by_future, &mut verdict)?;
        let rests_on = verdict.rests_on;
        let decided_at = match attempt {
            Attempt::Landed(Some(stamp)) => {
                let version = Version::new(stamp.version).unwrap_or(Version::FIRST);
                if !matches!(self.step, Step::Release { .. }) {
                    let at = store.clock.monotonic().saturating_add(self.ttl());
                    store.leases.keep_deadline(self.store, at);
                }
                retrying.finish();
                let answer = Ok(self.landed(version, stamp.written_at, false));
                let (rests_on, left) = (rests_on.max(stamp.version), Some(group));
                return Ok(Phase::Answer(Settled { answer, rests_on, left }));
            }
            Attempt::Refused { decided_at } => decided_at,
            // If it has landed before, that is found then.
            Attempt::Landed(None) | Attempt::Replayed(_) => return Ok(Phase::Try(None)),
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
