//! A build with CUDA.
//!
//! One device is used by one process, and everything runs on one stream, in the order of the calls: what frees a tensor
//! or reads it comes after what wrote it. So cudarc need not track who uses what.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use candle_core::backend::BackendStorage;
use candle_core::cuda_backend::DeviceId;
use candle_core::cuda_backend::cudarc::cublas::{result::gemm_ex, sys as blas};
use candle_core::cuda_backend::cudarc::driver::{
    CudaContext, CudaEvent, CudaFunction, CudaModule, CudaStream, DevicePtr, DriverError, LaunchConfig,
    PinnedHostSlice, PushKernelArg, result, sys,
};
use candle_core::cuda_backend::cudarc::nvrtc::Ptx;
use candle_core::{DType, Device, Storage, StorageRef, Tensor, bail};
use half::bf16;

use super::{Arg, Grid, Side, operand};
use crate::{Context, Error, Result};

/// Whether this build can use a GPU.
pub(in crate::ops) const BUILT: bool = true;

/// All kernels, as machine code for some GPUs and as PTX for those to come.
const KERNELS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/kernels.fatbin"));

/// What is on each GPU that was used.
static LOADED: Mutex<BTreeMap<usize, Loaded>> = Mutex::new(BTreeMap::new());

/// All kernels, and those that were asked for with the memory that their blocks may share.
struct Loaded {
    module: Arc<CudaModule>,
    functions: HashMap<String, (CudaFunction, usize)>,
}

/// What any kernel may share without being asked.
const SHARED: usize = 48 << 10;

/// The GPUs, as they were opened, whose products with weights take bf16 operands, not f32.
static IN_BF16: RwLock<Vec<DeviceId>> = RwLock::new(Vec::new());

/// Opens GPU `index`.
pub(in crate::ops) fn open(index: usize) -> Result<Device> {
    let device = Device::new_cuda_with_stream(index).map_err(|error| unusable(index, &error))?;
    let cuda = device.as_cuda_device()?;
    // SAFETY: one stream, see above.
    unsafe { cuda.disable_event_tracking() };
    if cuda.cuda_stream().context().has_async_alloc() {
        keep_freed_memory(cuda.cuda_stream().context().cu_device()).map_err(candle_core::Error::wrap)?;
    }
    Ok(device)
}

/// A sentence for what candle says where there is no GPU.
fn unusable(index: usize, error: &candle_core::Error) -> Error {
    let text = error.to_string();
    let says = |words: &[&str]| words.iter().any(|word| text.contains(word));
    Error::request(if says(&["STUB_LIBRARY", "libcuda"]) {
        "no NVIDIA driver is to be found (libcuda.so.1); compute with --device cpu".to_owned()
    } else if says(&["NO_DEVICE"]) {
        "the NVIDIA driver finds no GPU; compute with --device cpu".to_owned()
    } else if says(&["INVALID_DEVICE"]) {
        format!("there is no GPU {index}; the first one is 0")
    } else if says(&["CUBLAS_STATUS_NOT_INITIALIZED", "CURAND_STATUS_NOT_INITIALIZED"]) {
        "cuBLAS or cuRAND is not to be found (libcublas.so.13, libcublasLt.so.13, libcurand.so.10); name their folder \
         in LD_LIBRARY_PATH"
            .to_owned()
    } else {
        format!("GPU {index} cannot be used: {}", text.lines().next().unwrap_or_default())
    })
}

/// Freed memory stays with the process, ready for the next tensor; otherwise every wait for the device gives it back.
fn keep_freed_memory(device: sys::CUdevice) -> std::result::Result<(), DriverError> {
    let mut limit = u64::MAX;
    // SAFETY: the pool is the device's own, and the attribute is a u64, which lives until the call returns.
    unsafe {
        let pool = result::device::get_default_mem_pool(device)?;
        let attribute = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        sys::cuMemPoolSetAttribute(pool, attribute, (&raw mut limit).cast()).result()
    }
}

/// How many GPUs there are; none where no driver says so.
pub(in crate::ops) fn count() -> usize {
    CudaContext::device_count().map_or(0, |count| usize::try_from(count).unwrap_or(0))
}

/// What the device calls itself.
pub(in crate::ops) fn name(device: &Device) -> Result<String> {
    let stream = device.as_cuda_device()?.cuda_stream();
    Ok(stream.context().name().map_err(candle_core::Error::wrap)?)
}

/// Bytes free on the device now, and bytes there are.
pub(in crate::ops) fn memory(device: &Device) -> Result<(u64, u64)> {
    let stream = device.as_cuda_device()?.cuda_stream();
    let (free, total) = stream.context().mem_get_info().map_err(candle_core::Error::wrap)?;
    Ok((free as u64, total as u64))
}

/// Most bytes of tensors that were on the device at one time since it was opened or last asked; `None` where its driver
/// does not count.
pub(in crate::ops) fn peak(device: &Device) -> Result<Option<u64>> {
    let context = device.as_cuda_device()?.cuda_stream().context().clone();
    if !context.has_async_alloc() {
        return Ok(None);
    }
    // what the pool gives for a mark that is set anew
    let (mut most, mut anew) = (0_u64, 0_u64);
    let high = sys::CUmemPool_attribute_enum::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
    // SAFETY: the pool is the device's own, and the attribute is a u64, which lives until the calls return.
    let asked = unsafe {
        result::device::get_default_mem_pool(context.cu_device()).and_then(|pool| {
            sys::cuMemPoolGetAttribute(pool, high, (&raw mut most).cast()).result()?;
            sys::cuMemPoolSetAttribute(pool, high, (&raw mut anew).cast()).result()
        })
    };
    asked.map_err(candle_core::Error::wrap)?;
    Ok(Some(most))
}

/// From now on products with weights on `device`, and on clones of it, take operands of `dtype`, bf16 or f32. The same
/// GPU opened once more is another device. In main memory there is nothing to choose.
pub(in crate::ops) fn take_products_in(device: &Device, dtype: DType) -> Result<()> {
    let Device::Cuda(cuda) = device else { return Ok(()) };
    let mut narrow = IN_BF16.write().unwrap_or_else(PoisonError::into_inner);
    narrow.retain(|known| *known != cuda.id());
    narrow.extend((dtype == DType::BF16).then(|| cuda.id()));
    Ok(())
}

/// The type of the operands of products with weights on `device`.
pub(in crate::ops) fn products(device: &Device) -> DType {
    let Device::Cuda(cuda) = device else { return DType::F32 };
    let narrow = IN_BF16.read().unwrap_or_else(PoisonError::into_inner);
    if narrow.contains(&cuda.id()) { DType::BF16 } else { DType::F32 }
}

/// Numbers on their way to main memory.
pub(in crate::ops) struct Arriving {
    /// `None` only while it is dropped.
    place: Option<PinnedHostSlice<f64>>,
    len: usize,
    arrived: CudaEvent,
}

/// Places that numbers arrived at, for others: to make one takes longer than the copy.
static PLACES: Mutex<Vec<PinnedHostSlice<f64>>> = Mutex::new(Vec::new());

impl Arriving {
    /// The numbers, once they are there.
    pub(in crate::ops) fn numbers(&self) -> Result<&[f64]> {
        let place = self.place.as_ref().ok_or_else(|| Error::work("numbers that are gone"))?;
        self.arrived.synchronize().map_err(candle_core::Error::wrap)?;
        Ok(&place.as_slice().map_err(candle_core::Error::wrap)?[..self.len])
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        // a place that cannot be waited for is not given to others
        let place = self.place.take().filter(|_| self.arrived.synchronize().is_ok());
        PLACES.lock().unwrap_or_else(PoisonError::into_inner).extend(place);
    }
}

/// Starts to copy the numbers of a contiguous f64 tensor to main memory.
pub(in crate::ops) fn send(tensor: &Tensor) -> Result<Arriving> {
    let (held, layout) = tensor.storage_and_layout();
    let (Some((begin, end)), Storage::Cuda(storage)) = (layout.contiguous_offsets(), &*held) else {
        return Err(Error::work("numbers to send that are not on a GPU or have gaps"));
    };
    let numbers = storage.as_cuda_slice::<f64>()?.slice(begin..end);
    let (stream, len) = (storage.device().cuda_stream(), end - begin);
    let (address, _used) = numbers.device_ptr(&stream);
    let mut places = PLACES.lock().unwrap_or_else(PoisonError::into_inner);
    let known = places.iter().position(|place| place.len() >= len && place.context() == stream.context());
    let mut place = match known {
        Some(index) => places.swap_remove(index),
        // SAFETY: the copy that follows writes all that is read of it.
        None => unsafe { stream.context().alloc_pinned_with_flags(len, 0) }.map_err(candle_core::Error::wrap)?,
    };
    let mut copy = || {
        // SAFETY: `len` numbers lie at the address and fit into the place, which nobody reads before the event, and
        // which is kept till then.
        unsafe { result::memcpy_dtoh_async(&mut place.as_mut_slice()?[..len], address, stream.cu_stream())? };
        stream.record_event(None)
    };
    let arrived = copy().map_err(candle_core::Error::wrap)?;
    Ok(Arriving { place: Some(place), len, arrived })
}

/// A tensor's memory, held while the device is told about it.
struct Address<'a> {
    _held: StorageRef<'a>,
    address: u64,
}

/// Where the numbers of a contiguous tensor are.
fn address<'a>(tensor: &'a Tensor, stream: &CudaStream) -> candle_core::Result<Address<'a>> {
    let (held, layout) = tensor.storage_and_layout();
    let Some((begin, end)) = layout.contiguous_offsets() else { bail!("a kernel was given a view with gaps") };
    let Storage::Cuda(storage) = &*held else { bail!("a kernel was given a tensor in main memory") };
    let base = match storage.dtype() {
        DType::F32 => start(storage.as_cuda_slice::<f32>()?, stream, end)?,
        DType::BF16 => start(storage.as_cuda_slice::<bf16>()?, stream, end)?,
        DType::F64 => start(storage.as_cuda_slice::<f64>()?, stream, end)?,
        DType::U32 => start(storage.as_cuda_slice::<u32>()?, stream, end)?,
        DType::U8 => start(storage.as_cuda_slice::<u8>()?, stream, end)?,
        dtype => bail!("no kernel takes {dtype:?}"),
    };
    let address = base + (begin * storage.dtype().size_in_bytes()) as u64;
    Ok(Address { _held: held, address })
}

fn start<T>(slice: &impl DevicePtr<T>, stream: &CudaStream, end: usize) -> candle_core::Result<u64> {
    if end > slice.len() {
        bail!("a tensor reaches past its memory")
    }
    let (address, _used) = slice.device_ptr(stream);
    Ok(address)
}

/// `kernel` on the GPU of `stream`, its blocks allowed to share `shared` bytes.
fn function(kernel: &str, shared: usize, stream: &CudaStream) -> std::result::Result<CudaFunction, DriverError> {
    let context = stream.context();
    let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
    let Loaded { module, functions } = match loaded.entry(context.ordinal()) {
        Entry::Occupied(loaded) => loaded.into_mut(),
        Entry::Vacant(place) => {
            let module = context.load_module(Ptx::from_binary(KERNELS.to_vec()))?;
            place.insert(Loaded { module, functions: HashMap::new() })
        }
    };
    if let Some((function, allowed)) = functions.get(kernel)
        && shared <= *allowed
    {
        return Ok(function.clone());
    }
    let function = module.load_function(kernel)?;
    if shared > SHARED {
        let most = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        function.set_attribute(most, shared as i32)?;
    }
    functions.insert(kernel.to_owned(), (function.clone(), shared.max(SHARED)));
    Ok(function)
}

/// Starts `kernel`; its parameters are `args`, in order.
///
/// # Safety
/// The kernel declares these arguments, of these types, in this order; every tensor is as large as the kernel reaches
/// with these sizes and this grid, and what it writes is nobody's to read before the stream comes to it.
pub(in crate::ops) unsafe fn launch(kernel: &str, grid: Grid, args: &[Arg]) -> Result<()> {
    let Grid { blocks: (x, y), threads, shared } = grid;
    if x == 0 || y == 0 {
        return Ok(());
    }
    let first = args.iter().find_map(|arg| if let Arg::Tensor(tensor) = arg { Some(tensor) } else { None });
    let device = first.ok_or_else(|| Error::work(format!("{kernel}: no tensor")))?.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    let started = || -> candle_core::Result<()> {
        stream.context().bind_to_thread().map_err(candle_core::Error::wrap)?;
        let function = function(kernel, shared, &stream).map_err(candle_core::Error::wrap)?;
        let mut held = Vec::new();
        // every argument is eight bytes or a float, at an address that stays
        let mut words: Vec<u64> = Vec::new();
        let mut floats: Vec<f32> = Vec::new();
        for arg in args {
            match arg {
                Arg::Tensor(tensor) => {
                    let address = address(tensor, &stream)?;
                    words.push(address.address);
                    held.push(address);
                }
                Arg::Size(size) => words.push(*size as u64),
                Arg::Float(float) => floats.push(*float),
            }
        }
        let mut launch = stream.launch_builder(&function);
        let (mut words, mut floats) = (words.iter(), floats.iter());
        for arg in args {
            let known = match arg {
                Arg::Float(_) => floats.next().map(|float| launch.arg(float)).is_some(),
                _ => words.next().map(|word| launch.arg(word)).is_some(),
            };
            debug_assert!(known);
        }
        let config = LaunchConfig {
            grid_dim: (x as u32, y as u32, 1),
            block_dim: (threads as u32, 1, 1),
            shared_mem_bytes: shared as u32,
        };
        // SAFETY: the caller's word, to which the tests of the emulated device hold every op; the words and numbers
        // that are pointed to live until the call returns, and the tensors' memory is held
        unsafe { launch.launch(config) }.map_err(candle_core::Error::wrap)?;
        Ok(())
    };
    started().map_err(Error::from).context(|| format!("kernel {kernel}"))
}

/// out = left · right, or out += left · right; sums are f32 whatever `out` is.
pub(in crate::ops) fn multiply(left: Side, right: Side, out: &Tensor, add: bool) -> Result<()> {
    let (a, b) = (operand(left.matrix)?, operand(right.matrix)?);
    let size = |(rows, columns), turned| if turned { (columns, rows) } else { (rows, columns) };
    let ((rows, depth), (right_depth, columns)) = (size(a.dims2()?, left.turned), size(b.dims2()?, right.turned));
    if depth != right_depth || out.dims2()? != (rows, columns) {
        return Err(Error::work(format!("product of {:?} and {:?} into {:?}", a.shape(), b.shape(), out.shape())));
    }
    if rows == 0 || columns == 0 || depth == 0 {
        return Ok(());
    }
    let number = |dtype| match dtype {
        DType::BF16 => Ok(blas::cudaDataType_t::CUDA_R_16BF),
        DType::F32 => Ok(blas::cudaDataType_t::CUDA_R_32F),
        dtype => Err(Error::work(format!("no product on a GPU takes or gives {dtype:?}"))),
    };
    let (operands, results) = (number(a.dtype())?, number(out.dtype())?);
    let device = out.device().as_cuda_device()?;
    let stream = device.cuda_stream();
    stream.context().bind_to_thread().map_err(candle_core::Error::wrap)?;
    let (left_at, right_at, out_at) = (address(&a, &stream)?, address(&b, &stream)?, address(out, &stream)?);
    let way = |turned| if turned { blas::cublasOperation_t::CUBLAS_OP_T } else { blas::cublasOperation_t::CUBLAS_OP_N };
    let (one, keep) = (1f32, if add { 1f32 } else { 0f32 });
    let int =
        |size: usize| i32::try_from(size).map_err(|_| Error::work(format!("a matrix side of {size} is too long")));
    // cuBLAS goes by columns: there a row-major matrix is its transpose, and outᵀ = rightᵀ · leftᵀ.
    let (right_stride, left_stride) = (int(b.dim(1)?)?, int(a.dim(1)?)?);
    let blas_handle = device.cublas_handle();
    // SAFETY: the handle lives, the matrices hold rows·depth, depth·columns and rows·columns numbers of the types said
    // (checked above), and the scalars are f32, as the compute type asks.
    unsafe {
        gemm_ex(
            *blas_handle.handle(),
            way(right.turned),
            way(left.turned),
            int(columns)?,
            int(rows)?,
            int(depth)?,
            (&raw const one).cast(),
            right_at.address as *const _,
            operands,
            right_stride,
            left_at.address as *const _,
            operands,
            left_stride,
            (&raw const keep).cast(),
            out_at.address as *mut _,
            results,
            int(columns)?,
            blas::cublasComputeType_t::CUBLAS_COMPUTE_32F,
            blas::cublasGemmAlgo_t::CUBLAS_GEMM_DEFAULT,
        )
    }
    .map_err(candle_core::Error::wrap)?;
    Ok(())
}
