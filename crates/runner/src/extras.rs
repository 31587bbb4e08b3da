//! Values of any type that an application hands to its stages, found again by type: a registry of optimizers, for
//! one. They are code, not configuration: nothing in here enters a cache key.

use std::any::{Any, TypeId};
use std::collections::HashMap;

/// A map from a type to its one value.
#[derive(Default)]
pub struct Extras {
    values: HashMap<TypeId, Box<dyn Any + Send + Sync>>,
}

impl Extras {
    /// Puts a value in place of an earlier one of the same type.
    pub fn insert<T: Any + Send + Sync>(&mut self, value: T) {
        self.values.insert(TypeId::of::<T>(), Box::new(value));
    }

    /// The value of this type, if the application gave one.
    pub fn get<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.values.get(&TypeId::of::<T>())?.downcast_ref()
    }

    /// The value of this type, made by default where the application gave none.
    pub fn get_mut_or_default<T: Any + Send + Sync + Default>(&mut self) -> Option<&mut T> {
        let entry = self.values.entry(TypeId::of::<T>());
        entry.or_insert_with(|| Box::new(T::default())).downcast_mut()
    }
}
