//! Who has a block: those who have announced its file, those who live around it, and whom a lookup finds.

use super::*;

impl Fetch {
    /// Those who have announced the file may be asked for a block of it. Whether there are any who were not known to.
    pub(super) fn add_providers(&mut self, id: BlockId) -> bool {
        let Some(want) = self.wants.get_mut(&id) else {
            return false;
        };
        let mut any = false;
        for asker in want.askers.clone() {
            let plan = self.plans.get(&asker);
            for contact in plan.map_or(&[][..], Plan::providers) {
                any |= want.add_source(*contact);
            }
        }
        any
    }

    /// A lookup names one that has announced the file whose root is looked for. Any other is ignored.
    pub fn handle_provider(&mut self, lookup: LookupId, contact: Contact) {
        let id = self.lookups.get(&lookup);
        let Some(want) = id.and_then(|id| self.wants.get(id)) else {
            return;
        };
        for asker in want.askers.iter().filter(|_| want.is_first) {
            self.plans.entry(*asker).or_default().add_provider(contact);
        }
    }

    /// A peer has not given a block: it is not asked any more because it has announced the file.
    pub(super) fn drop_provider(&mut self, tools: &mut Tools<'_>, peer: &NodeId) {
        let mut unserved = Vec::new();
        for (asker, plan) in &mut self.plans {
            if plan.drop_provider(peer) {
                unserved.push(*asker);
            }
        }
        for asker in unserved {
            self.seek_wanted(tools, asker);
        }
    }

    /// A block was not there in time: from now on others are found as well.
    pub(super) fn handle_late(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let Some(want) = self.wants.get(&id) else {
            return;
        };
        for asker in want.askers.clone() {
            let plan = self.plans.get_mut(&asker);
            if let Some(plan) = plan.filter(|plan| plan.is_served()) {
                plan.note_late();
                self.seek_wanted(tools, asker);
            }
        }
    }

    /// What somebody waits for, and only providers were to give, is located, if it is of a file that is large enough.
    fn seek_wanted(&mut self, tools: &mut Tools<'_>, asker: Asker) {
        let total = self.plans.get(&asker).map_or(0, Plan::total);
        if total < tools.dht.region_count(tools.now) {
            return;
        }
        let wanted = self.wants.iter();
        let wanted =
            wanted.filter(|(_, it)| it.askers.contains(&asker) && !it.is_first && it.lookups == 0);
        let wanted = wanted.map(|(id, _)| *id).collect();
        self.holders.seek(tools, asker, wanted);
    }

    /// There may be news of the holders of a block.
    pub(super) fn handle_sought(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        if let Some(want) = self.wants.get_mut(&id) {
            for contact in self.holders.of(tools.now, &id) {
                want.add_holder(*contact);
            }
            self.advance(tools, id);
        }
    }

    /// Blocks have been located. False if they are not ours.
    pub fn handle_located(&mut self, tools: &mut Tools<'_>, located: &Located) -> bool {
        let is_ours = self.holders.handle_located(tools, located);
        if is_ours {
            for id in &located.blocks {
                self.handle_sought(tools, *id);
            }
        }
        is_ours
    }

    /// A contact has said which blocks it has, or has not answered. What was not asked here is ignored.
    pub fn handle_counted(
        &mut self,
        tools: &mut Tools<'_>,
        count: QueryId,
        bitmap: Option<Bitmap>,
    ) {
        let blocks = self.holders.handle_counted(tools, count, bitmap);
        for id in blocks {
            self.handle_sought(tools, id);
        }
    }

    pub(super) fn locate(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let Some(want) = self.wants.get_mut(&id) else {
            return;
        };
        let mut useless = want.failed.clone();
        useless.extend(want.asked.keys());
        let lookup = tools.dht.find_holders(tools.now, id, useless);
        want.lookup = Some(lookup);
        want.found = false;
        want.lookups += 1;
        want.looked_up = tools.now;
        self.lookups.insert(lookup, id);
    }

    /// A lookup has found a holder. One that is not ours is ignored.
    pub fn handle_holder(&mut self, tools: &mut Tools<'_>, lookup: LookupId, contact: Contact) {
        let Some(&id) = self.lookups.get(&lookup) else {
            return;
        };
        let Some(want) = self.wants.get_mut(&id) else {
            return;
        };
        want.found |= want.add_holder(contact);
        self.advance(tools, id);
    }

    /// A lookup has ended, with this many peers having answered; who they are, and more. One that is not ours is ignored.
    pub fn handle_holders_done(
        &mut self,
        tools: &mut Tools<'_>,
        lookup: LookupId,
        answered: usize,
        heard: &BTreeSet<NodeId>,
    ) {
        let Some(id) = self.lookups.remove(&lookup) else {
            return;
        };
        if let Some(want) = self.wants.get_mut(&id) {
            want.lookup = None;
            want.answered = want.answered.max(answered);
            want.heard.extend(heard);
            let sources = &self.sources;
            want.heard.retain(|peer| sources.of_peer(peer).is_some());
            // Who has sent something meanwhile lives: the lines are full, and its silence is no "no".
            let is_alive = |source: &Source| {
                let heard = tools.transfer.last_heard(source.conn);
                tools.transfer.is_open(source.conn) && heard.is_some_and(|at| at > want.looked_up)
            };
            let mut alive = sources.all().filter(|source| is_alive(source));
            want.is_unheard =
                answered < K && alive.any(|source| !want.heard.contains(&source.contact.id));
        }
        self.advance(tools, id);
    }

    /// It is time to look again for a block that some who live were not heard on.
    pub(super) fn look_again(&mut self, tools: &mut Tools<'_>, id: BlockId) {
        let want = self.wants.get(&id);
        let is_open = |want: &Want| want.lookup.is_none() && (want.asked.is_empty() || want.late);
        if want.is_some_and(is_open) {
            self.locate(tools, id);
        }
    }
}
