//! Decides one message: looks up what the rules ask for, applies them, and carries out what they say.

use std::collections::HashMap;

use protocol::Address;
use protocol::api::message_node::{MessageStatus, Price};
use protocol::message::{AggregateContent, ErrorCode, ItemType, PostContent, ProgramContent, StoreContent};
use rust_decimal::Decimal;

use super::verify::Checked;
use super::{Context, Outcome};
use crate::clock::{micros, now_us};
use crate::core::aggregate::Moment;
use crate::core::balances::{self, UPDATE_POST};
use crate::core::chain::Holding;
use crate::core::content::{self, Content, post_reference};
use crate::core::payment::Funds;
use crate::core::permission::{self, Authorizations, SECURITY_KEY, Subject};
use crate::core::{Awaited, Known, Refusal, Rejection, aggregate, network, post, program, store as store_rules};
use crate::events::{Event, News};
use crate::filter::Traits;
use crate::store::messages::Decided;
use crate::store::pending::Submission;
use crate::store::posts::NewPost;
use crate::store::programs::NewProgram;
use crate::store::stores::NewStore;
use crate::store::{
    Connection, StoreError, Stored, aggregates, costs, files, messages, nodes, pending, posts, programs, stores,
};
use crate::view;

/// What becomes of a message now.
pub(super) enum Verdict {
    /// It is decided; the event tells subscribers if it came into force.
    Decided(Outcome, Option<Box<Event>>),
    /// It may be accepted once this has arrived, and is rejected like this if it does not.
    Waits(Awaited, Rejection),
}

/// Why a message is not accepted, or could not be decided.
pub(super) enum Stop {
    Refused(Refusal),
    Failed(StoreError),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<Rejection> for Stop {
    fn from(rejection: Rejection) -> Self {
        Self::Refused(rejection.into())
    }
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Failed(error)
    }
}

/// A message that is being decided.
pub(super) struct Processing<'a> {
    pub context: &'a Context,
    pub db: &'a mut Connection,
    pub submission: &'a Submission,
}

impl Context {
    /// Decides a message, within a transaction.
    pub(super) async fn process(&self, db: &mut Connection, checked: &Checked) -> Stored<Verdict> {
        let submission = &checked.submission;
        if let Err(error) = &checked.signature {
            let rejection = Rejection::new(ErrorCode::InvalidSignature, error.to_string());
            return self.reject(db, submission, rejection, false).await;
        }
        let standing = messages::standing(db, &submission.envelope.item_hash).await?;
        if let Some(standing) = standing
            && standing.status.0 != MessageStatus::Rejected
        {
            return Ok(Verdict::Decided(Outcome::of(standing.status.0), None));
        }
        let mut processing = Processing { context: self, db, submission };
        match processing.accept().await {
            Ok(event) => Ok(Verdict::Decided(Outcome::of(MessageStatus::Processed), Some(Box::new(event)))),
            Err(Stop::Refused(Refusal::Until(awaited, rejection))) => Ok(Verdict::Waits(awaited, rejection)),
            Err(Stop::Refused(Refusal::Final(rejection))) => self.reject(db, submission, rejection, true).await,
            Err(Stop::Failed(error)) => Err(error),
        }
    }

    /// Rejects a message. `authentic` tells whether its signature was right.
    pub(super) async fn reject(
        &self,
        db: &mut Connection,
        submission: &Submission,
        rejection: Rejection,
        authentic: bool,
    ) -> Stored<Verdict> {
        let envelope = &submission.envelope;
        let text = envelope.item_content.as_deref();
        let content = text.and_then(|text| Content::parse(envelope.message_type, text).ok());
        let traits = Traits::new(envelope, content.as_ref());
        let message = Decided { envelope, traits: &traits, content: text, received_us: submission.received_us };
        messages::put_rejected(db, &message, &rejection, authentic).await?;
        Ok(Verdict::Decided(Outcome::rejected(rejection), None))
    }
}

impl Processing<'_> {
    /// Puts the message in force, or says why not. Everything is checked before anything is written.
    async fn accept(&mut self) -> Result<Event, Stop> {
        let submission = self.submission;
        let envelope = &submission.envelope;
        let (text, file) = self.content_text().await?;
        let content = Content::parse(envelope.message_type, &text)?;
        let traits = Traits::new(envelope, Some(&content));
        match &content {
            Content::Store(content) => self.accept_store(content, &traits).await?,
            Content::Program(content) => self.accept_program(content, &traits).await?,
            Content::Post(content) => self.accept_post(content, &traits).await?,
            Content::Aggregate(content) => self.accept_aggregate(content, &text, &traits).await?,
            Content::Forget(content) => self.accept_forget(content).await?,
        }
        let message = Decided { envelope, traits: &traits, content: Some(&text), received_us: submission.received_us };
        messages::put_processed(self.db, &message).await?;
        if let Some(file) = file {
            files::add_content(self.db, &file, &envelope.item_hash).await?;
        }
        let json = view::to_json(envelope, Some(&text));
        Ok(Event::new(traits, News::Arrived, json))
    }

    /// The item content, inline or from the file that the item hash names, and that file's SHA-256.
    async fn content_text(&mut self) -> Result<(String, Option<String>), Stop> {
        let envelope = &self.submission.envelope;
        if envelope.item_type == ItemType::Inline {
            return Ok((envelope.item_content.clone().unwrap_or_default(), None));
        }
        let name = content::file_name(envelope)?;
        let Some(file) = files::find(self.db, name).await? else {
            let rejection = Rejection::of(ErrorCode::ContentUnavailable);
            return Err(Refusal::Until(Awaited::File(name), rejection).into());
        };
        content::check_length(file.bytes, self.context.limits.content_bytes)?;
        let bytes = self.context.files.bytes(&file).await?;
        Ok((content::read_file(envelope, bytes.into())?, Some(file.hash)))
    }

    async fn accept_store(&mut self, content: &StoreContent, traits: &Traits) -> Result<(), Stop> {
        self.check_permission(&self.subject(&content.address, traits)).await?;
        self.put_store(content).await
    }

    /// Puts a file in force, whoever sent it.
    pub(super) async fn put_store(&mut self, content: &StoreContent) -> Result<(), Stop> {
        let item_hash = &self.submission.envelope.item_hash;
        let original = match store_rules::original(content) {
            Some(hash) => {
                let found = stores::get(self.db, hash).await?.map(|row| store_rules::Original {
                    owner: Address::new(row.address),
                    is_revision: row.reference.is_some(),
                });
                Some(self.known(hash, found).await?)
            }
            None => None,
        };
        let file = files::find(self.db, store_rules::file_name(content)?).await?;
        let bytes = file.as_ref().map(|file| file.bytes);
        let funds = match bytes.is_some_and(store_rules::is_free) {
            // Nobody is asked for the balances of those who need none.
            true => Funds { balance: Holding::Unlimited, locked: Decimal::ZERO },
            false => self.funds(&content.address).await?,
        };
        let facts = store_rules::Facts { file: bytes, original, funds };
        let table = self.context.network.price_table(self.db).await?;
        let accepted = store_rules::check(content, item_hash, &facts, &table, &self.context.payment)?;
        let file = file.expect("what is accepted has a file");
        let owner = content.address.canonical();
        let row = NewStore {
            item_hash,
            owner: &owner,
            address: content.address.as_str(),
            file_hash: &file.hash,
            named_as: &content.item_hash,
            tag: &accepted.tag,
            reference: content.reference.as_deref(),
            time_us: content.time.as_micros(),
        };
        stores::insert(self.db, &row).await?;
        self.charge(&owner, accepted.cost, &accepted.price).await
    }

    async fn accept_program(&mut self, content: &ProgramContent, traits: &Traits) -> Result<(), Stop> {
        self.check_permission(&self.subject(&content.address, traits)).await?;
        self.put_program(content).await
    }

    /// Puts a program in force, whoever sent it.
    pub(super) async fn put_program(&mut self, content: &ProgramContent) -> Result<(), Stop> {
        let item_hash = &self.submission.envelope.item_hash;
        let replaced = match &content.replaces {
            Some(hash) => Some(self.replaced(hash).await?),
            None => None,
        };
        let references = self.references(content).await?;
        let facts = program::Facts { replaced, references, funds: self.funds(&content.address).await? };
        let table = self.context.network.price_table(self.db).await?;
        let accepted = program::check(content, &facts, &table, &self.context.payment)?;
        let owner = content.address.canonical();
        let window_us = micros(self.context.timing.replacement_window);
        let subscriptions = content.on.message.as_ref();
        let row = NewProgram {
            item_hash,
            owner: &owner,
            replaces: content.replaces.as_deref(),
            allow_amend: content.allow_amend,
            subscriptions: subscriptions.map(|list| serde_json::to_string(list).expect("subscriptions are JSON")),
            time_us: content.time.as_micros(),
            settle_by_us: accepted.on_condition.then(|| now_us() + window_us),
        };
        let aliases = &self.context.network.aliases;
        let needed: Vec<&str> =
            content.references().into_iter().map(|(reference, _)| aliases.resolve(reference)).collect();
        programs::insert(self.db, &row, &needed).await?;
        self.charge(&owner, accepted.cost, &accepted.price).await
    }

    async fn replaced(&mut self, hash: &str) -> Stored<Known<program::Replaced>> {
        let found = match programs::facts(self.db, hash).await? {
            Some(row) => Some(program::Replaced {
                owner: Address::new(row.owner),
                allow_amend: row.allow_amend,
                cost: row.cost.map_or(Ok(Decimal::ZERO), |cost| costs::read(&cost, hash))?,
            }),
            None => None,
        };
        self.known(hash, found).await
    }

    async fn references(&mut self, content: &ProgramContent) -> Stored<program::References> {
        let mut references = HashMap::new();
        for (reference, use_latest) in content.references() {
            let meant = self.context.network.aliases.resolve(reference);
            let found = stores::resolve(self.db, meant, use_latest)
                .await?
                .map(|row| program::Needed { file_hash: row.file_hash, bytes: crate::store::from_db(row.size) });
            references.insert((reference.to_owned(), use_latest), self.known(meant, found).await?);
        }
        Ok(references)
    }

    async fn accept_post(&mut self, content: &PostContent, traits: &Traits) -> Result<(), Stop> {
        let mut subject = self.subject(&content.address, traits);
        let target = post::target(content)?;
        if let Some(hash) = target {
            let found = posts::facts(self.db, hash).await?.map(|row| post::Amended {
                owner: Address::new(row.address),
                post_type: row.post_type,
                is_amend: row.amends.is_some(),
            });
            let known = self.known(hash, found).await?;
            // Whoever may make a post may amend it.
            subject.post_type = Some(post::check_amend(content, hash, known)?.post_type);
        }
        self.check_permission(&subject).await?;
        let publishes = content.post_type == UPDATE_POST && self.context.balances.trusts(&content.address);
        let update = publishes.then(|| balances::update(content)).transpose()?;
        let item_hash = &self.submission.envelope.item_hash;
        let row = NewPost {
            item_hash,
            owner: &content.address.canonical(),
            address: content.address.as_str(),
            post_type: &content.post_type,
            reference: post_reference(content),
            amends: target,
            channel: self.submission.envelope.channel.as_deref(),
            time_us: content.time.as_micros(),
        };
        posts::insert(self.db, &row).await?;
        if let Some(update) = update {
            self.context.balances.put(self.db, &content.address, &update).await?;
        }
        if let Some(node) = network::registration(content, item_hash) {
            nodes::insert(self.db, &node).await?;
        }
        Ok(())
    }

    async fn accept_aggregate(&mut self, content: &AggregateContent, text: &str, traits: &Traits) -> Result<(), Stop> {
        self.check_permission(&self.subject(&content.address, traits)).await?;
        let item_hash = &self.submission.envelope.item_hash;
        let owner = content.address.canonical();
        let names = aggregate::names(text).map_err(|e| StoreError::corrupt("aggregate message", item_hash, e))?;
        let moment: Moment = (content.time.as_micros(), item_hash.clone());
        let existing = aggregates::get(self.db, &owner, &content.key).await?;
        let mut merged = existing.map(|row| row.aggregate).unwrap_or_default();
        merged.merge(names, &moment);
        let entries = merged.to_json();
        aggregate::check_size(entries.len(), self.context.limits.aggregate_bytes)?;
        aggregates::insert(self.db, &owner, &content.key, &moment, &entries).await?;
        Ok(())
    }

    /// What the message is and whose, for checks of permission.
    fn subject(&self, owner: &Address, traits: &Traits) -> Subject {
        Subject {
            owner: owner.clone(),
            message_type: traits.message_type,
            chain: traits.chain.clone(),
            channel: traits.channel.clone(),
            post_type: traits.content_type.clone(),
            aggregate_key: traits.content_key.clone(),
        }
    }

    async fn check_permission(&mut self, subject: &Subject) -> Result<(), Stop> {
        let sender = &self.submission.envelope.sender;
        let given = match *sender == subject.owner {
            true => Authorizations::default(),
            false => self.authorizations(&subject.owner).await?,
        };
        Ok(permission::check(sender, subject, &given)?)
    }

    /// The authorisations that an account gave.
    pub(super) async fn authorizations(&mut self, owner: &Address) -> Stored<Authorizations> {
        let security = aggregates::get(self.db, &owner.canonical(), SECURITY_KEY).await?;
        let Some(mut document) = security.map(|row| row.aggregate.into_document()) else {
            return Ok(Authorizations::default());
        };
        let Some(list) = document.remove("authorizations") else { return Ok(Authorizations::default()) };
        let list = serde_json::from_str(list.get())
            .map_err(|e| StoreError::corrupt("security aggregate", owner.as_str(), e))?;
        Ok(Authorizations::from_json(&list))
    }

    /// What is known of a message that another one refers to. One that was rejected may still come: somebody else may have
    /// submitted a spoiled copy of it.
    async fn known<T>(&mut self, hash: &str, in_force: Option<T>) -> Stored<Known<T>> {
        if let Some(facts) = in_force {
            return Ok(Known::InForce(facts));
        }
        if pending::exists(self.db, hash).await? {
            return Ok(Known::NotYet);
        }
        Ok(match messages::standing(self.db, hash).await?.map(|standing| standing.status.0) {
            None | Some(MessageStatus::Rejected | MessageStatus::Pending) => Known::NotYet,
            Some(_) => Known::Never,
        })
    }

    async fn funds(&mut self, owner: &Address) -> Stored<Funds> {
        let balance = self.context.balances.of(self.db, owner).await?;
        Ok(Funds { balance, locked: costs::locked(self.db, &owner.canonical()).await? })
    }

    async fn charge(&mut self, owner: &str, cost: Decimal, price: &Price) -> Result<(), Stop> {
        let price = serde_json::to_string(price).expect("a price is JSON");
        costs::insert(self.db, &self.submission.envelope.item_hash, owner, cost, &price).await?;
        if !cost.is_zero() {
            self.context.balances.watch(self.db, owner).await?;
        }
        Ok(())
    }
}
