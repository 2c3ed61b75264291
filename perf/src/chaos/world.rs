//! What clients and model servers of a run share: the seed, the phase, and what was served.

use super::dice::Dice;
use super::fault::{Fault, Weather};
use super::plan::{Id, Surface};
use super::words::Usage;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use tokio::sync::Notify;

/// One answer of a model server, or what was left of it.
#[derive(Clone, Copy, Debug)]
pub struct Served {
    pub server: usize,
    pub fault: Fault,
    pub surface: Surface,
    pub stream: bool,
    pub usage: Usage,
    /// A whole and right answer was written to its last byte.
    pub whole: bool,
    /// It was of a call for several requests: which one, and of how many.
    pub shared: Option<(u64, u64)>,
}

/// The world of a run. All of it lives on one thread.
pub struct World {
    pub seed: u32,
    calm: Cell<bool>,
    served: RefCell<HashMap<Id, Vec<Served>>>,
    faults: RefCell<BTreeMap<String, u64>>,
    weather: RefCell<BTreeMap<String, u64>>,
    waves: RefCell<HashMap<u64, Rc<Wave>>>,
    calls: Cell<u64>,
}

/// Requests that are held until all of them are there.
#[derive(Default)]
pub struct Wave {
    arrived: Cell<u64>,
    complete: Notify,
}

impl World {
    pub fn new(seed: u32) -> World {
        World {
            seed,
            calm: Cell::new(true),
            served: RefCell::default(),
            faults: RefCell::default(),
            weather: RefCell::default(),
            waves: RefCell::default(),
            calls: Cell::default(),
        }
    }

    pub fn is_calm(&self) -> bool {
        self.calm.get()
    }

    /// From now on nothing goes wrong, or things do.
    pub fn set_calm(&self, calm: bool) {
        self.calm.set(calm);
    }

    /// How many words the answer to a request has.
    pub fn words(&self, id: Id) -> u64 {
        Dice::of(self.seed.into(), &[4, id.number]).between(1, 40)
    }

    /// What a model server reports for a try.
    pub fn usage(&self, id: Id, server: usize, round: u64) -> Usage {
        let mut dice = Dice::of(self.seed.into(), &[5, id.number, server as u64, round]);
        Usage {
            input: dice.between(1, 2000),
            output: dice.between(2, 200),
        }
    }

    /// Which try of this request at this server begins.
    pub fn round(&self, id: Id, server: usize) -> u64 {
        let served = self.served.borrow();
        let tries = served.get(&id).into_iter().flatten();
        tries.filter(|it| it.server == server).count() as u64
    }

    /// The number of a call for several requests.
    pub fn next_call(&self) -> u64 {
        let number = self.calls.get();
        self.calls.set(number + 1);
        number
    }

    /// How many calls were for several requests.
    pub fn calls(&self) -> u64 {
        self.calls.get()
    }

    /// A try begins; [`World::was_whole`] says how it ended. Returns its number.
    pub fn begins(&self, id: Id, served: Served) -> usize {
        if served.fault != Fault::None {
            *self
                .faults
                .borrow_mut()
                .entry(served.fault.name())
                .or_default() += 1;
        }
        let mut all = self.served.borrow_mut();
        let tries = all.entry(id).or_default();
        tries.push(served);
        tries.len() - 1
    }

    pub fn was_whole(&self, id: Id, number: usize) {
        if let Some(tries) = self.served.borrow_mut().get_mut(&id) {
            tries[number].whole = true;
        }
    }

    /// What was served for a request, all tries in order.
    pub fn served(&self, id: Id) -> Vec<Served> {
        self.served.borrow().get(&id).cloned().unwrap_or_default()
    }

    pub fn forget(&self, id: Id) {
        self.served.borrow_mut().remove(&id);
    }

    pub fn weather_came(&self, weather: Weather) {
        *self
            .weather
            .borrow_mut()
            .entry(format!("{weather:?}"))
            .or_default() += 1;
    }

    /// Faults of answers, and windows of weather, by kind.
    pub fn told(&self) -> [BTreeMap<String, u64>; 2] {
        [self.faults.borrow().clone(), self.weather.borrow().clone()]
    }

    /// Waits until all requests of a wave are here; for ever, if they don't come.
    pub async fn muster(&self, wave: u64, size: u64) {
        let wave = Rc::clone(self.waves.borrow_mut().entry(wave).or_default());
        wave.arrived.set(wave.arrived.get() + 1);
        if wave.arrived.get() >= size {
            wave.complete.notify_waiters();
        } else {
            wave.complete.notified().await;
        }
    }
}
