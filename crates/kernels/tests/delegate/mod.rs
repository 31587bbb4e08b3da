//! The methods of `Driver` that a test's own machine leaves to the one inside it.

/// Inside `impl Driver`: `delegate!(emulator: place, zero);` has these methods do what those of the field `emulator` do.
macro_rules! delegate {
    ($field:ident: $($method:ident),* $(,)?) => {
        $(delegate!(@ $method $field);)*
    };
    (@ name $to:ident) => {
        fn name(&self) -> &'static str {
            self.$to.name()
        }
    };
    (@ place $to:ident) => {
        fn place(&self) -> farthing_kernels::Place {
            self.$to.place()
        }
    };
    (@ properties $to:ident) => {
        fn properties(&self) -> &farthing_kernels::cuda::driver::Properties {
            self.$to.properties()
        }
    };
    (@ alloc $to:ident) => {
        fn alloc(&self, bytes: usize) -> farthing_kernels::Result<u64> {
            self.$to.alloc(bytes)
        }
    };
    (@ free $to:ident) => {
        fn free(&self, address: u64) {
            self.$to.free(address);
        }
    };
    (@ write $to:ident) => {
        fn write(&self, dst: u64, src: &[u8]) -> farthing_kernels::Result<()> {
            self.$to.write(dst, src)
        }
    };
    (@ read $to:ident) => {
        fn read(&self, dst: &mut [u8], src: u64) -> farthing_kernels::Result<()> {
            self.$to.read(dst, src)
        }
    };
    (@ copy $to:ident) => {
        fn copy(&self, dst: u64, src: u64, bytes: usize) -> farthing_kernels::Result<()> {
            self.$to.copy(dst, src, bytes)
        }
    };
    (@ zero $to:ident) => {
        fn zero(&self, dst: u64, bytes: usize) -> farthing_kernels::Result<()> {
            self.$to.zero(dst, bytes)
        }
    };
    (@ synchronize $to:ident) => {
        fn synchronize(&self) -> farthing_kernels::Result<()> {
            self.$to.synchronize()
        }
    };
    (@ record $to:ident) => {
        fn record(&self) -> farthing_kernels::Result<farthing_kernels::cuda::driver::Event> {
            self.$to.record()
        }
    };
    (@ elapsed_s $to:ident) => {
        fn elapsed_s(
            &self,
            from: farthing_kernels::cuda::driver::Event,
            to: farthing_kernels::cuda::driver::Event,
        ) -> farthing_kernels::Result<f64> {
            self.$to.elapsed_s(from, to)
        }
    };
}
