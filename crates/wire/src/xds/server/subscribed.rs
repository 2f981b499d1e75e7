use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use prost_types::Any;
use tokio::sync::watch;
use tonic::Status;

use super::hold::Hold;
use crate::discovery::{Comparison, DeltaDiscoveryRequest, DeltaDiscoveryResponse, Resource};
use crate::xds::digest::{HeldDigests, version_text};
use crate::xds::{Collection, PARTIAL, PartLimit, StoredResource};

/// The limits of one response (one resource may exceed the bytes).
const PART: PartLimit = PartLimit {
    resources: 5_000,
    bytes: 2 << 20,
    end: u64::MAX,
};
const WILDCARD: &str = "*";

/// The state of one type on one stream.
pub(super) struct Subscribed {
    pub(super) type_url: String,
    /// Types that it refers to have a lower rank.
    pub(super) rank: u8,
    removes_last: bool,
    collection: Arc<Collection>,
    pub(super) changed: watch::Receiver<u64>,
    wildcard: bool,
    names: HashSet<String>,
    /// Subscribed names without a response so far.
    unanswered: BTreeSet<String>,
    /// Versions that the client sent at the start, until they have been compared.
    held: HashMap<String, Option<u64>>,
    /// Digests that the client sent in place of versions.
    digests: Digests,
    /// Removals to send.
    gone: VecDeque<String>,
    /// Removals that wait.
    hold: Option<Hold>,
    /// Removals that became known after those began to wait.
    to_hold: Vec<String>,
    /// The last change of this round; `None` while the collection is not ready.
    end: Option<u64>,
    /// The position in the changes of the collection; `None` until the collection is ready.
    position: Option<Position>,
    /// The nonces of the first and the last response that the client has not acknowledged.
    outstanding: Option<(u64, u64)>,
    /// When the first change in a response was published, by the nonce of the response; of those that are outstanding.
    sent: VecDeque<(u64, Instant)>,
    /// Whether the last response said that nothing is left. When nothing is and it did not, or there was none yet, an
    /// empty response says so.
    told_complete: bool,
}

/// The comparison of the digests that a client sent.
#[derive(Default)]
enum Digests {
    /// It sent none, or they have been compared.
    #[default]
    Done,
    Sent(HeldDigests),
    /// These buckets, of so many, differ: the client is about to list what it holds in them.
    Differ(Vec<u32>, usize),
}

/// A client has answered a response.
pub(super) struct Answered {
    /// When the first change in it was published, where there was one while the client was subscribed.
    pub(super) since: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Position {
    cursor: u64,
    /// Changes up to here, or later changes of the same resources, have been sent. This is behind `cursor` while
    /// resources in between have changed again after the end of the round: a part passes over these.
    settled: u64,
    /// Removals up to here were found by comparison with the versions that the client sent.
    start: u64,
}

impl Subscribed {
    pub(super) fn new(
        collection: Arc<Collection>,
        rank: u8,
        removes_last: bool,
        request: DeltaDiscoveryRequest,
    ) -> Result<Self, Status> {
        let digests = match request.held_digests.as_slice() {
            [] => Digests::Done,
            bytes => HeldDigests::decode(bytes).map(Digests::Sent).ok_or_else(|| {
                Status::invalid_argument("held_digests is not a power of two of digests, or too long")
            })?,
        };
        let held = request.initial_resource_versions.into_iter();
        let mut subscribed = Self {
            type_url: request.type_url,
            rank,
            removes_last,
            changed: collection.subscribe(),
            collection,
            wildcard: request.resource_names_subscribe.is_empty(),
            names: HashSet::new(),
            unanswered: BTreeSet::new(),
            held: HashMap::new(),
            digests,
            gone: VecDeque::new(),
            hold: None,
            to_hold: Vec::new(),
            end: None,
            position: None,
            outstanding: None,
            sent: VecDeque::new(),
            told_complete: false,
        };
        subscribed.change(
            request.resource_names_subscribe,
            request.resource_names_unsubscribe,
        );
        subscribed.held = held
            .map(|(name, version)| (name, parse_version(&version)))
            .collect();
        Ok(subscribed)
    }

    /// What the client holds in the buckets that differ.
    pub(super) fn list(&mut self, held: impl IntoIterator<Item = (String, String)>) {
        let Digests::Differ(differing, buckets) = std::mem::take(&mut self.digests) else {
            return;
        };
        let held = held.into_iter();
        self.held
            .extend(held.map(|(name, version)| (name, parse_version(&version))));
        let (gone, _) = self.collection.absent(self.held.keys().map(String::as_str));
        for name in gone {
            self.held.remove(&name);
            self.remove(name);
        }
        // Those of the same version are passed over.
        self.unanswered
            .extend(self.collection.names_in(&differing, buckets));
    }

    /// The number of subscribed names.
    pub(super) fn names(&self) -> usize {
        self.names.len()
    }

    /// Handles the reply to a response, if it was expected. Replies have the order of the responses.
    pub(super) fn acknowledge(&mut self, nonce: &str) -> Option<Answered> {
        let (first, last) = self.outstanding?;
        let nonce = nonce.parse::<u64>().ok()?;
        if !(first..=last).contains(&nonce) {
            return None;
        }
        self.outstanding = (nonce < last).then_some((nonce + 1, last));
        let mut since = None;
        while let Some((_, changed)) = self.sent.pop_front_if(|(sent, _)| *sent <= nonce) {
            since = since.or(Some(changed));
        }
        Some(Answered { since })
    }

    /// A resource that is subscribed by name is sent even if it was sent before, since the client may have dropped it
    /// (xDS protocol, "Subscribing to Resources").
    pub(super) fn change(&mut self, subscribe: Vec<String>, unsubscribe: Vec<String>) {
        for name in subscribe {
            if name == WILDCARD {
                if !self.wildcard {
                    self.wildcard = true;
                    // From the beginning. `start` stays, so that removals of resources that were sent by name are still
                    // sent.
                    if let Some(position) = &mut self.position {
                        (position.cursor, position.settled) = (0, 0);
                    }
                }
            } else {
                self.held.remove(&name);
                self.names.insert(name.clone());
                self.unanswered.insert(name);
            }
        }
        for name in unsubscribe {
            if name == WILDCARD {
                self.wildcard = false;
            } else {
                self.names.remove(&name);
                self.unanswered.remove(&name);
            }
        }
    }

    /// Starts a round with all changes so far.
    pub(super) fn begin_round(&mut self) {
        // In this order, no change in between is missed.
        self.changed.mark_unchanged();
        self.end = self.collection.is_ready().then(|| self.collection.latest());
    }

    /// Whether there may be something to send in this round, with nothing outstanding.
    pub(super) fn has_news(&self) -> bool {
        let Some(end) = self.end else {
            return false;
        };
        let behind = self.position.as_ref().is_none_or(|p| p.cursor < end);
        let gone = !self.gone.is_empty();
        let listing = matches!(self.digests, Digests::Differ(..));
        self.outstanding.is_none()
            && !listing
            && (behind || gone || !self.unanswered.is_empty() || !self.told_complete)
    }

    /// The number of the latest change in the collection; `None` while it is not ready.
    pub(super) fn latest(&self) -> Option<u64> {
        self.collection.is_ready().then(|| self.collection.latest())
    }

    /// Whether changes up to this number have been sent, except for removals that wait.
    pub(super) fn has_sent(&self, change: u64) -> bool {
        self.has_settled(change) && self.gone.is_empty()
    }

    /// Whether the client has been sent all resources as of this round, or later. Resources of higher rank in this
    /// round may refer to them.
    pub(super) fn is_round_settled(&self) -> bool {
        self.end.is_none_or(|end| self.has_settled(end))
    }

    fn has_settled(&self, change: u64) -> bool {
        let settled = self.position.as_ref().is_some_and(|p| p.settled >= change);
        settled && self.unanswered.is_empty() && matches!(self.digests, Digests::Done)
    }

    /// The nonce of the last response without a reply; 0 if there is none.
    pub(super) fn last_nonce(&self) -> u64 {
        self.outstanding.map_or(0, |(_, last)| last)
    }

    /// Whether the client has replied to this response and all earlier ones.
    pub(super) fn has_answered(&self, nonce: u64) -> bool {
        self.outstanding.is_none_or(|(first, _)| first > nonce)
    }

    /// Takes the removals that wait. If none do, those in `to_hold` begin to wait.
    pub(super) fn take_hold(&mut self) -> Option<Hold> {
        let names = &mut self.to_hold;
        let begin = || (!names.is_empty()).then(|| Hold::new(std::mem::take(names)));
        self.hold.take().or_else(begin)
    }

    /// Puts back what was taken, with whether the wait is over.
    pub(super) fn put_hold(&mut self, hold: Hold, over: bool) {
        if over {
            self.gone.extend(hold.names);
        } else {
            self.hold = Some(hold);
        }
    }

    /// The next response, if all earlier ones are acknowledged.
    pub(super) fn respond(&mut self, nonce: u64) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        if self.outstanding.is_some() {
            return Ok(None);
        }
        self.go_ahead(nonce)
    }

    /// The next response, even if earlier ones are not acknowledged.
    pub(super) fn go_ahead(&mut self, nonce: u64) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        let Some(end) = self.end else {
            return Ok(None);
        };
        let comparison = match std::mem::take(&mut self.digests) {
            Digests::Done => None,
            Digests::Sent(held) => {
                let differing = self.compare(&held);
                if !differing.is_empty() {
                    self.digests = Digests::Differ(differing.clone(), held.buckets());
                    return Ok(Some(self.ask_for(differing, nonce)));
                }
                Some(Comparison { differing })
            }
            waiting => {
                self.digests = waiting;
                return Ok(None);
            }
        };
        let Position {
            cursor,
            settled,
            start,
        } = self.position();
        let mut updated = self.answer_names(end);
        let subscribed = |name: &str| self.wildcard || self.names.contains(name);
        let wanted = |name: &str, version: Option<u64>| {
            subscribed(name) && (version.is_none() || self.held.get(name).copied().flatten() != version)
        };
        let limit = PartLimit {
            resources: PART.resources - updated.len(),
            bytes: PART.bytes,
            end,
        };
        let changes = self
            .collection
            .changes(cursor, start, wanted, limit)
            .map_err(|_| {
                Status::aborted("the client is too slow to follow the changes: open the stream again")
            })?;
        self.position = Some(Position {
            cursor: changes.cursor,
            settled: if changes.complete { changes.cursor } else { settled },
            start,
        });
        updated.extend(changes.updated);
        for name in updated
            .iter()
            .map(|r| &*r.name)
            .chain(changes.removed.iter().map(AsRef::as_ref))
        {
            self.held.remove(name);
        }
        self.forget_removals(
            updated
                .iter()
                .map(|r| &*r.name)
                .chain(changes.removed.iter().map(AsRef::as_ref)),
        );
        for name in &changes.removed {
            self.remove(name.to_string());
        }
        let room = PART.resources.saturating_sub(updated.len());
        let removed: Vec<_> = self.gone.drain(..room.min(self.gone.len())).collect();
        let complete = changes.complete && self.unanswered.is_empty() && self.gone.is_empty();
        if complete {
            self.held = HashMap::new();
        }
        let empty = updated.is_empty() && removed.is_empty();
        if empty && comparison.is_none() && (self.told_complete || !complete) {
            return Ok(None);
        }
        self.told_complete = complete;
        self.await_reply(nonce);
        self.sent.extend(changes.since.map(|since| (nonce, since)));
        Ok(Some(DeltaDiscoveryResponse {
            system_version_info: if complete {
                changes.cursor.to_string()
            } else {
                PARTIAL.to_owned()
            },
            resources: updated.into_iter().map(|r| self.encode(r)).collect(),
            type_url: self.type_url.clone(),
            removed_resources: removed,
            nonce: nonce.to_string(),
            comparison,
        }))
    }

    fn await_reply(&mut self, nonce: u64) {
        let first = self.outstanding.map_or(nonce, |(first, _)| first);
        self.outstanding = Some((first, nonce));
    }

    /// Compares digests, and goes on from this moment.
    fn compare(&mut self, held: &HeldDigests) -> Vec<u32> {
        let (differing, latest) = self.collection.differing(held);
        self.position = Some(Position {
            cursor: latest,
            settled: latest,
            start: latest,
        });
        differing
    }

    /// The response that says which buckets differ.
    fn ask_for(&mut self, differing: Vec<u32>, nonce: u64) -> DeltaDiscoveryResponse {
        self.await_reply(nonce);
        DeltaDiscoveryResponse {
            system_version_info: PARTIAL.to_owned(),
            type_url: self.type_url.clone(),
            nonce: nonce.to_string(),
            comparison: Some(Comparison { differing }),
            ..Default::default()
        }
    }

    /// The position of this type. The first call compares the versions that the client sent.
    fn position(&mut self) -> Position {
        if let Some(position) = self.position {
            return position;
        }
        let (gone, latest) = self.collection.absent(self.held.keys().map(String::as_str));
        // A resource that is added again counts as changed, even if the client still has the same content.
        for name in &gone {
            self.held.remove(name);
        }
        for name in gone {
            if self.wildcard || self.names.contains(&name) {
                self.remove(name);
            }
        }
        // Names are looked up one by one; only a wildcard goes through the whole collection.
        let cursor = if self.wildcard { 0 } else { latest };
        Position {
            cursor,
            settled: cursor,
            start: latest,
        }
    }

    /// Adds a removal, which is sent at once or waits.
    fn remove(&mut self, name: String) {
        if self.removes_last {
            self.to_hold.push(name);
        } else {
            self.gone.push_back(name);
        }
    }

    /// Removals that have not been sent.
    fn removals(&self) -> impl Iterator<Item = &String> {
        let held = self.hold.iter().flat_map(|hold| &hold.names);
        self.gone.iter().chain(held).chain(&self.to_hold)
    }

    /// Drops removals of resources that exist again, or that were removed again later.
    fn forget_removals<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        if self.removals().next().is_none() {
            return;
        }
        let names: HashSet<&str> = names.collect();
        let stays = |name: &String| !names.contains(name.as_str());
        self.gone.retain(stays);
        self.to_hold.retain(stays);
        if let Some(hold) = &mut self.hold {
            hold.names.retain(stays);
        }
    }

    /// The resources of newly subscribed names. A name without a resource counts as removed. One that has changed after
    /// `end` stays for the next round, since it may refer to resources that are not in this one.
    fn answer_names(&mut self, end: u64) -> Vec<StoredResource> {
        let (mut updated, mut bytes, mut later) = (Vec::new(), 0, BTreeSet::new());
        while updated.len() < PART.resources && bytes < PART.bytes {
            let Some(name) = self.unanswered.pop_first() else {
                break;
            };
            match self.collection.get(&name) {
                Some((_, change)) if change > end => {
                    later.insert(name);
                }
                Some((stored, _)) if self.held.get(&name).copied().flatten() == Some(stored.version) => {}
                Some((stored, _)) => {
                    bytes += stored.bytes.len();
                    // Not sent a second time among the changes.
                    self.held.insert(name, Some(stored.version));
                    updated.push(stored);
                }
                None if self.removals().any(|other| *other == name) => {}
                None => self.remove(name),
            }
        }
        self.unanswered.append(&mut later);
        updated
    }

    fn encode(&self, stored: StoredResource) -> Resource {
        Resource {
            name: stored.name.to_string(),
            version: version_text(stored.version),
            resource: Some(Any {
                type_url: self.type_url.clone(),
                value: stored.bytes.to_vec(),
            }),
            aliases: Vec::new(),
        }
    }
}

/// `None` for a version that this server did not create.
fn parse_version(text: &str) -> Option<u64> {
    u64::from_str_radix(text, 16).ok()
}
