//! `Tensor`, an owned row-major array on a device, and its views `Ref` and `Mut`.
//!
//! Views carry an address, an element type and a shape. They never copy and never allocate; a `Mut` is unique while it
//! lives, as a `&mut` is. The device alone knows what an address means: only memory at [`Place::Host`] can be seen as a slice,
//! and addresses are moved by wrapping arithmetic, because those of a GPU are no objects of this process.

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::marker::PhantomData;
use std::ops::Range;
use std::ptr::NonNull;

use crate::{Error, Result, Shape};

/// The type of a tensor's elements.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum DType {
    /// 64-bit float: everything on the reference device.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float with f32's exponent.
    BF16,
    /// 32-bit signed integer: token ids, targets (−1 is "ignored") and positions.
    I32,
}

impl DType {
    /// Bytes of one element.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F64 => 8,
            Self::F32 | Self::I32 => 4,
            Self::BF16 => 2,
        }
    }
}

/// A host type that elements can be seen as; of the size of its `DTYPE`, which is checked where it is used.
pub trait Element: bytemuck::Pod + Send + Sync {
    /// The element type it is.
    const DTYPE: DType;
}

impl Element for f64 {
    const DTYPE: DType = DType::F64;
}
impl Element for f32 {
    const DTYPE: DType = DType::F32;
}
impl Element for i32 {
    const DTYPE: DType = DType::I32;
}

/// Where memory is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Place {
    /// This process's memory.
    Host,
    /// The memory of the CUDA device with this ordinal.
    Cuda(u32),
    /// The memory of the emulated CUDA device.
    Emulated,
    /// None: bytes that [`Planned`](crate::planned::Planned) counts.
    Planned,
}

/// A piece of memory that frees itself when dropped.
///
/// # Safety
/// `address()..address() + bytes()` is valid for reads and writes by the device at `place()`, aligned to 64 bytes,
/// initialised, and owned by this value alone until it is dropped.
pub unsafe trait Allocation: Send + Sync {
    /// The first byte. A device address when `place()` is not the host.
    fn address(&self) -> *mut u8;
    /// The length in bytes.
    fn bytes(&self) -> usize;
    /// Where it is.
    fn place(&self) -> Place;
}

/// Zeroed host memory, aligned to 64 bytes.
pub struct HostAllocation {
    address: NonNull<u8>,
    layout: Layout,
    bytes: usize,
}

impl HostAllocation {
    /// The alignment of every allocation, in bytes: one cache line, one AVX-512 register.
    pub const ALIGN: usize = 64;

    /// Zeroed memory, or `None` when there is not that much.
    pub fn new(bytes: usize) -> Option<Self> {
        let layout = Layout::from_size_align(bytes.max(1), Self::ALIGN).ok()?;
        // SAFETY: the layout's size is at least 1.
        let address = NonNull::new(unsafe { alloc_zeroed(layout) })?;
        Some(Self { address, layout, bytes })
    }
}

impl Drop for HostAllocation {
    fn drop(&mut self) {
        // SAFETY: `address` came from `alloc_zeroed` with this very layout and is freed once.
        unsafe { dealloc(self.address.as_ptr(), self.layout) }
    }
}

// SAFETY: plain owned memory, without thread affinity.
unsafe impl Send for HostAllocation {}
// SAFETY: shared access hands out an address only; reads and writes go through `Ref` and `Mut`, which borrow.
unsafe impl Sync for HostAllocation {}
// SAFETY: allocated zeroed with these bytes and alignment, freed on drop only.
unsafe impl Allocation for HostAllocation {
    fn address(&self) -> *mut u8 {
        self.address.as_ptr()
    }
    fn bytes(&self) -> usize {
        self.bytes
    }
    fn place(&self) -> Place {
        Place::Host
    }
}

/// An owned, row-major array on a device. Made by [`Memory::alloc`](crate::Memory::alloc).
pub struct Tensor {
    allocation: Box<dyn Allocation>,
    dtype: DType,
    shape: Shape,
}

impl Tensor {
    /// Takes an allocation as an array of `dtype` and `shape`. For implementors of devices.
    ///
    /// # Errors
    /// [`Error::Argument`] when the allocation is too small.
    pub fn from_allocation(
        allocation: Box<dyn Allocation>,
        dtype: DType,
        shape: Shape,
    ) -> Result<Self> {
        if shape.elements().saturating_mul(dtype.bytes()) > allocation.bytes() {
            let what = format!("{} bytes for shape {shape} of {dtype:?}", allocation.bytes());
            return Err(Error::Argument { op: "from_allocation", what });
        }
        Ok(Self { allocation, dtype, shape })
    }

    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Bytes of the elements.
    pub fn bytes(&self) -> usize {
        self.shape.elements() * self.dtype.bytes()
    }

    /// A shared view of everything.
    pub fn view(&self) -> Ref<'_> {
        Ref {
            address: self.allocation.address(),
            dtype: self.dtype,
            shape: self.shape,
            place: self.allocation.place(),
            borrow: PhantomData,
        }
    }

    /// A unique view of everything.
    pub fn view_mut(&mut self) -> Mut<'_> {
        Mut {
            address: self.allocation.address(),
            dtype: self.dtype,
            shape: self.shape,
            place: self.allocation.place(),
            borrow: PhantomData,
        }
    }
}

/// A shared view: contiguous, row-major, `Copy`.
#[derive(Clone, Copy)]
pub struct Ref<'a> {
    address: *const u8,
    dtype: DType,
    shape: Shape,
    place: Place,
    borrow: PhantomData<&'a [u8]>,
}

/// A unique view: contiguous, row-major.
pub struct Mut<'a> {
    address: *mut u8,
    dtype: DType,
    shape: Shape,
    place: Place,
    borrow: PhantomData<&'a mut [u8]>,
}

// SAFETY: a `Ref` is a `&[u8]` with a shape; like it, it may be sent and shared.
unsafe impl Send for Ref<'_> {}
// SAFETY: as above.
unsafe impl Sync for Ref<'_> {}
// SAFETY: a `Mut` is a `&mut [u8]` with a shape; like it, it may be sent.
unsafe impl Send for Mut<'_> {}
// SAFETY: through `&Mut` nothing can be written.
unsafe impl Sync for Mut<'_> {}

/// The byte range and shape of rows `range` of `shape`.
fn rows_of(
    op: &'static str,
    shape: Shape,
    dtype: DType,
    range: &Range<usize>,
) -> Result<(usize, Shape)> {
    let out_of_range = || Error::OutOfRange { op, start: range.start, end: range.end, shape };
    let (&rows, inner) = shape.split_first().ok_or_else(out_of_range)?;
    if range.start > range.end || range.end > rows {
        return Err(out_of_range());
    }
    let stride = inner.iter().fold(dtype.bytes(), |n, &dim| n.saturating_mul(dim));
    let mut dims = [0; Shape::MAX_RANK];
    dims[..shape.len()].copy_from_slice(&shape);
    dims[0] = range.len();
    let sub = Shape::from_dims(&dims[..shape.len()]).ok_or_else(out_of_range)?;
    Ok((range.start * stride, sub))
}

fn reshaped(shape: Shape, to: Shape) -> Result<Shape> {
    if shape.elements() == to.elements() {
        return Ok(to);
    }
    let expected = format!("{} elements", to.elements());
    Err(Error::Shape { op: "reshape", arg: "self", got: shape, expected })
}

fn on_host(place: Place) -> Result<()> {
    if place != Place::Host {
        return Err(Error::Place { op: "slice", got: place, expected: Place::Host });
    }
    Ok(())
}

/// Checks that elements may be seen as host values of type `T`.
fn seen_as<T: Element>(place: Place, dtype: DType) -> Result<()> {
    const { assert!(size_of::<T>() == T::DTYPE.bytes() && align_of::<T>() <= size_of::<T>()) };
    on_host(place)?;
    if dtype != T::DTYPE {
        return Err(Error::DType { op: "slice", got: dtype, asked: T::DTYPE });
    }
    Ok(())
}

impl<'a> Ref<'a> {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the memory is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The address of the first element. For implementors of devices.
    pub fn address(&self) -> *const u8 {
        self.address
    }

    /// Rows `range` along the first axis.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn rows(self, range: Range<usize>) -> Result<Ref<'a>> {
        let (bytes, shape) = rows_of("rows", self.shape, self.dtype, &range)?;
        Ok(Ref { address: self.address.wrapping_add(bytes), shape, ..self })
    }

    /// Entry `index` of the first axis, with that axis dropped.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn at(self, index: usize) -> Result<Ref<'a>> {
        let row = self.rows(index..index + 1)?;
        let shape = Shape::from_dims(&row.shape[1..]).unwrap_or(row.shape);
        Ok(Ref { shape, ..row })
    }

    /// The same elements under other dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Ref<'a>> {
        Ok(Ref { shape: reshaped(self.shape, shape.into())?, ..self })
    }

    /// The elements as a host slice.
    ///
    /// # Errors
    /// [`Error::Place`] off the host, [`Error::DType`] when the elements are not `T`.
    pub fn slice<T: Element>(self) -> Result<&'a [T]> {
        seen_as::<T>(self.place, self.dtype)?;
        // SAFETY: host memory of at least this many initialised elements, aligned to 64 bytes at the tensor's start
        // (and to the element anywhere in it), borrowed for 'a.
        Ok(unsafe { std::slice::from_raw_parts(self.address.cast(), self.shape.elements()) })
    }

    /// The elements' bytes on the host, whatever their type.
    ///
    /// # Errors
    /// [`Error::Place`] off the host.
    pub fn host_bytes(self) -> Result<&'a [u8]> {
        on_host(self.place)?;
        let bytes = self.shape.elements() * self.dtype.bytes();
        // SAFETY: host memory of this many initialised bytes, borrowed for 'a.
        Ok(unsafe { std::slice::from_raw_parts(self.address, bytes) })
    }
}

impl<'a> Mut<'a> {
    /// The type of the elements.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The dimensions.
    pub fn shape(&self) -> Shape {
        self.shape
    }

    /// Where the memory is.
    pub fn place(&self) -> Place {
        self.place
    }

    /// The address of the first element. For implementors of devices.
    pub fn address(&self) -> *mut u8 {
        self.address
    }

    /// No elements, for a place in an array that holds no view.
    pub(crate) fn nothing() -> Self {
        Mut {
            address: std::ptr::without_provenance_mut(HostAllocation::ALIGN),
            dtype: DType::F32,
            shape: Shape::from([0]),
            place: Place::Host,
            borrow: PhantomData,
        }
    }

    /// A shared view, for as long as this one is not used.
    pub fn view(&self) -> Ref<'_> {
        self.as_ref_with_lifetime()
    }

    /// A shorter-lived unique view.
    pub fn reborrow(&mut self) -> Mut<'_> {
        Mut {
            address: self.address,
            dtype: self.dtype,
            shape: self.shape,
            place: self.place,
            borrow: PhantomData,
        }
    }

    /// Gives up uniqueness for good.
    pub fn into_ref(self) -> Ref<'a> {
        self.as_ref_with_lifetime()
    }

    // Private: the caller picks 'b, no longer than its own borrow of `self` or `self` by value.
    fn as_ref_with_lifetime<'b>(&self) -> Ref<'b> {
        Ref {
            address: self.address,
            dtype: self.dtype,
            shape: self.shape,
            place: self.place,
            borrow: PhantomData,
        }
    }

    /// Rows `range` along the first axis.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn rows(self, range: Range<usize>) -> Result<Mut<'a>> {
        let (bytes, shape) = rows_of("rows", self.shape, self.dtype, &range)?;
        Ok(Mut { address: self.address.wrapping_add(bytes), shape, ..self })
    }

    /// Entry `index` of the first axis, with that axis dropped.
    ///
    /// # Errors
    /// [`Error::OutOfRange`].
    pub fn at(self, index: usize) -> Result<Mut<'a>> {
        let row = self.rows(index..index + 1)?;
        let shape = Shape::from_dims(&row.shape[1..]).unwrap_or(row.shape);
        Ok(Mut { shape, ..row })
    }

    /// Two disjoint unique views: rows `..at` and rows `at..`.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there are fewer than `at` rows.
    pub fn split_rows(self, at: usize) -> Result<(Mut<'a>, Mut<'a>)> {
        let rows = self.shape.first().copied().unwrap_or(0);
        let (_, head) = rows_of("split_rows", self.shape, self.dtype, &(0..at))?;
        let (bytes, tail) = rows_of("split_rows", self.shape, self.dtype, &(at..rows))?;
        let Mut { address, dtype, place, borrow, .. } = self;
        // `rows_of` checked both ranges; they do not overlap.
        let second = address.wrapping_add(bytes);
        Ok((
            Mut { address, dtype, shape: head, place, borrow },
            Mut { address: second, dtype, shape: tail, place, borrow },
        ))
    }

    /// The same elements under other dimensions.
    ///
    /// # Errors
    /// [`Error::Shape`] when the number of elements differs.
    pub fn reshape(self, shape: impl Into<Shape>) -> Result<Mut<'a>> {
        Ok(Mut { shape: reshaped(self.shape, shape.into())?, ..self })
    }

    /// The elements as a host slice.
    ///
    /// # Errors
    /// [`Error::Place`] off the host, [`Error::DType`] when the elements are not `T`.
    pub fn slice<T: Element>(self) -> Result<&'a mut [T]> {
        seen_as::<T>(self.place, self.dtype)?;
        // SAFETY: as for `Ref::slice`, and this view is unique for 'a.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.shape.elements()) })
    }

    /// The elements' bytes on the host, whatever their type.
    ///
    /// # Errors
    /// [`Error::Place`] off the host.
    pub fn host_bytes(self) -> Result<&'a mut [u8]> {
        on_host(self.place)?;
        let bytes = self.shape.elements() * self.dtype.bytes();
        // SAFETY: host memory of this many initialised bytes, borrowed by this view alone for 'a; all of the element
        // types hold any bytes.
        Ok(unsafe { std::slice::from_raw_parts_mut(self.address, bytes) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reference::Reference;
    use crate::{Device, Memory};

    /// 0, 1, 2, … in this shape.
    fn counted(shape: impl Into<Shape>) -> Tensor {
        let dev: &dyn Device = &Reference::new();
        let mut tensor = dev.activations(shape).unwrap();
        let values: Vec<f64> = (0..tensor.shape().elements()).map(|i| i as f64).collect();
        dev.write_f64(tensor.view_mut(), &values).unwrap();
        tensor
    }

    #[test]
    fn rows_and_entries_are_where_they_should_be() {
        let t = counted([3, 2, 2]);
        let rows = t.view().rows(1..3).unwrap();
        assert_eq!(*rows.shape(), [2, 2, 2]);
        assert_eq!(rows.slice::<f64>().unwrap(), [4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]);
        let entry = rows.at(1).unwrap().at(0).unwrap();
        assert_eq!(*entry.shape(), [2]);
        assert_eq!(entry.slice::<f64>().unwrap(), [8.0, 9.0]);
        let scalar = entry.at(1).unwrap();
        assert_eq!((scalar.shape().len(), scalar.shape().elements()), (0, 1));
        assert_eq!(scalar.slice::<f64>().unwrap(), [9.0]);
        assert_eq!(*t.view().rows(3..3).unwrap().shape(), [0, 2, 2]);
    }

    #[test]
    fn rows_outside_are_refused_with_the_figures() {
        let t = counted([3, 2]);
        let message = t.view().rows(2..4).err().unwrap().to_string();
        assert_eq!(message, "rows: rows 2..4 of a tensor of shape (3, 2)");
        #[allow(clippy::reversed_empty_ranges, reason = "that is what is refused")]
        let reversed = t.view().rows(2..1);
        assert!(reversed.is_err());
        assert!(t.view().at(3).is_err());
        assert!(t.view().at(usize::MAX).is_err());
        let scalar = t.view().at(0).unwrap().at(0).unwrap();
        assert!(scalar.rows(0..1).is_err(), "a scalar has no rows");
        assert!(scalar.at(0).is_err());
    }

    #[test]
    fn split_rows_are_disjoint_and_cover_everything() {
        let mut t = counted([4, 2]);
        for at in 0..=4 {
            let (head, tail) = t.view_mut().split_rows(at).unwrap();
            assert_eq!((head.shape()[0], tail.shape()[0]), (at, 4 - at));
            let (head, tail) = (head.slice::<f64>().unwrap(), tail.slice::<f64>().unwrap());
            assert_eq!([&*head, &*tail].concat(), (0..8).map(f64::from).collect::<Vec<_>>());
        }
        assert!(matches!(
            t.view_mut().split_rows(5),
            Err(Error::OutOfRange { op: "split_rows", .. })
        ));
    }

    #[test]
    fn what_is_written_through_one_view_is_seen_through_another() {
        let mut t = counted([2, 3]);
        let mut view = t.view_mut();
        view.reborrow().at(1).unwrap().slice::<f64>().unwrap()[2] = -1.0;
        assert_eq!(view.view().slice::<f64>().unwrap()[5], -1.0);
        assert_eq!(view.into_ref().reshape([6]).unwrap().slice::<f64>().unwrap()[5], -1.0);
    }

    #[test]
    fn reshape_keeps_the_number_of_elements() {
        let t = counted([2, 6]);
        assert_eq!(*t.view().reshape([3, 4]).unwrap().shape(), [3, 4]);
        let message = t.view().reshape([5]).err().unwrap().to_string();
        assert_eq!(message, "reshape: self has shape (2, 6), expected 5 elements");
    }

    #[test]
    fn elements_are_seen_as_their_own_type_only() {
        let mut t = counted([2]);
        let asked = t.view().slice::<f32>().err().unwrap().to_string();
        assert_eq!(asked, "slice: elements are F64, asked for as F32");
        assert!(t.view_mut().slice::<i32>().is_err());
        assert_eq!(t.view().host_bytes().unwrap().len(), 16);
        assert_eq!(t.view_mut().host_bytes().unwrap()[..8], 0f64.to_ne_bytes());
    }

    #[test]
    fn memory_is_zero_aligned_and_large_enough() {
        for elements in [0, 1, 17] {
            let t = Reference::new().alloc(DType::F32, Shape::from([elements])).unwrap();
            assert_eq!(t.view().address() as usize % HostAllocation::ALIGN, 0);
            assert!(t.view().slice::<f32>().unwrap().iter().all(|&x| x == 0.0));
            assert_eq!(t.bytes(), 4 * elements);
        }
        let memory = Box::new(HostAllocation::new(8).unwrap());
        assert!(Tensor::from_allocation(memory, DType::F32, Shape::from([3])).is_err());
    }

    #[test]
    fn a_size_beyond_all_memory_is_an_error() {
        for shape in [[1 << 33, 1 << 31], [1 << 40, 1 << 40], [usize::MAX, usize::MAX]] {
            let error = Reference::new().alloc(DType::F64, Shape::from(shape)).err().unwrap();
            assert!(matches!(error, Error::OutOfMemory { device: "reference", .. }), "{error}");
        }
    }

    proptest::proptest! {
        #[test]
        fn any_rows_of_any_shape(
            dims in proptest::collection::vec(0usize..5, 1..=4),
            start in 0usize..6,
            len in 0usize..6,
        ) {
            let t = counted(Shape::from_dims(&dims).unwrap());
            let stride: usize = dims[1..].iter().product();
            match t.view().rows(start..start + len) {
                Ok(rows) => {
                    proptest::prop_assert!(start + len <= dims[0]);
                    let expected: Vec<f64> =
                        (start * stride..(start + len) * stride).map(|i| i as f64).collect();
                    proptest::prop_assert_eq!(rows.slice::<f64>().unwrap(), &expected[..]);
                }
                Err(_) => proptest::prop_assert!(start + len > dims[0]),
            }
        }
    }
}
