"""Names of Keras's own classes and functions that only compute.

Data alone, of Keras 3 and of tf_keras, old names and aliases included. What
is not here is refused before a loader sees it, see `keras_config`; a test
goes through both libraries and asks of every name whether it is here or left
out on purpose. Left out are those that

* hold code: Lambda, TFOpLambda, SlicingOpLambda and the like, which look up a
  function by its name, and wrappers of RNN cells, which hold one;
* read files: TFSMLayer, TorchModuleWrapper (a pickle), JaxLayer, FlaxLayer,
  feature columns;
* take functions: operations such as Map, Scan or WhileLoop;
* are no part of a model: `get_file`, `load_model`, `deserialize` ...
"""

from __future__ import annotations


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


LAYERS = _names(
    """
    AbstractRNNCell Activation ActivityRegularization AdaptiveAveragePooling1D
    AdaptiveAveragePooling2D AdaptiveAveragePooling3D AdaptiveMaxPooling1D
    AdaptiveMaxPooling2D AdaptiveMaxPooling3D Add AddLoss AddMetric
    AdditiveAttention AlphaDropout Attention AugMix AutoContrast Average
    AveragePooling1D AveragePooling2D AveragePooling3D AvgPool1D AvgPool2D
    AvgPool3D BaseRandomLayer BatchNormalization BatchNormalizationBase
    BatchNormalizationV1 BatchNormalizationV2 Bidirectional CategoryEncoding
    CenterCrop Concatenate ContrastLimitedAdaptiveHistogramEqualization Conv1D
    Conv1DTranspose Conv2D Conv2DTranspose Conv3D Conv3DTranspose ConvLSTM1D
    ConvLSTM2D ConvLSTM3D Convolution1D Convolution1DTranspose Convolution2D
    Convolution2DTranspose Convolution3D Convolution3DTranspose Cropping1D
    Cropping2D Cropping3D CuDNNGRU CuDNNLSTM CutMix Dense DepthwiseConv1D
    DepthwiseConv2D Discretization Dot Dropout ELU EinsumDense Embedding
    Equalization Flatten GRU GRUCell GRUCellV1 GRUCellV2 GRUV1 GRUV2
    GaussianDropout GaussianNoise GlobalAveragePooling1D GlobalAveragePooling2D
    GlobalAveragePooling3D GlobalAvgPool1D GlobalAvgPool2D GlobalAvgPool3D
    GlobalMaxPool1D GlobalMaxPool2D GlobalMaxPool3D GlobalMaxPooling1D
    GlobalMaxPooling2D GlobalMaxPooling3D GroupNormalization GroupQueryAttention
    GroupedQueryAttention HashedCrossing Hashing Identity InputLayer LSTM
    LSTMCell LSTMCellV1 LSTMCellV2 LSTMV1 LSTMV2 Layer LayerNormalization
    LeakyReLU LocallyConnected1D LocallyConnected2D Masking MaxNumBoundingBoxes
    MaxPool1D MaxPool2D MaxPool3D MaxPooling1D MaxPooling2D MaxPooling3D Maximum
    MelSpectrogram Minimum MixUp MultiHeadAttention Multiply Normalization PReLU
    Permute Pipeline RMSNormalization RNN RandAugment RandomBrightness
    RandomColorDegeneration RandomColorJitter RandomContrast RandomCrop
    RandomElasticTransform RandomErasing RandomFlip RandomGaussianBlur
    RandomGrayscale RandomHeight RandomHue RandomInvert RandomPerspective
    RandomPosterization RandomRotation RandomSaturation RandomSharpness
    RandomShear RandomTranslation RandomWidth RandomZoom ReLU RepeatVector
    Rescaling Reshape Resizing ReversibleEmbedding STFTSpectrogram
    SeparableConv1D SeparableConv2D SeparableConvolution1D
    SeparableConvolution2D SimpleRNN SimpleRNNCell Softmax Solarization
    SpatialDropout1D SpatialDropout2D SpatialDropout3D SpectralNormalization
    StackedRNNCells Subtract SyncBatchNormalization ThresholdedReLU
    TimeDistributed UnitNormalization UpSampling1D UpSampling2D UpSampling3D
    Wrapper ZeroPadding1D ZeroPadding2D ZeroPadding3D
    """
)

# Layers that are harmless as long as their vocabulary is no path.
VOCABULARIES = _names(
    """
    IntegerLookup StringLookup TextVectorization
    """
)

MODELS = _names(
    """
    Functional Model Sequential
    """
)

INITIALIZERS = _names(
    """
    Constant ConstantV2 GlorotNormal GlorotNormalV2 GlorotUniform
    GlorotUniformV2 HeNormal HeNormalV2 HeUniform HeUniformV2 Identity
    IdentityInitializer IdentityV2 Initializer LecunNormal LecunNormalV2
    LecunUniform LecunUniformV2 Ones OnesV2 Orthogonal OrthogonalInitializer
    OrthogonalV2 RandomNormal RandomNormalV2 RandomUniform RandomUniformV2 STFT
    STFTInitializer TruncatedNormal TruncatedNormalV2 VarianceScaling
    VarianceScalingV2 Zeros ZerosV2 constant glorot_normal glorot_normalV2
    glorot_uniform glorot_uniformV2 he_normal he_normalV2 he_uniform
    he_uniformV2 identity initializer lecun_normal lecun_normalV2 lecun_uniform
    lecun_uniformV2 normal one ones orthogonal random_normal random_uniform stft
    truncated_normal uniform variance_scaling zero zeros
    """
)

REGULARIZERS = _names(
    """
    L1 L1L2 L2 OrthogonalRegularizer Regularizer l1 l1_l2 l1l2 l2
    orthogonal_regularizer regularizer
    """
)

CONSTRAINTS = _names(
    """
    Constraint MaxNorm MinMaxNorm NonNeg RadialConstraint UnitNorm constraint
    max_norm min_max_norm non_neg radial_constraint unit_norm
    """
)

POLICIES = _names(
    """
    DTypePolicy DTypePolicyMap FloatDTypePolicy Policy QuantizedDTypePolicy
    QuantizedFloat8DTypePolicy
    """
)

# Classes of keras.ops, which stand for calls in a functional model.
OPERATIONS = _names(
    """
    Abs Absolute AdaptiveAveragePool AdaptiveMaxPool Add AffineTransform All
    AllClose Amax Amin Angle Any Append Arange Arccos Arccosh Arcsin Arcsinh
    Arctan Arctan2 Arctanh Argmax Argmin Argpartition Argsort Array ArraySplit
    Average AveragePool BatchNorm BinaryCrossentropy Bincount BitwiseAnd
    BitwiseInvert BitwiseLeftShift BitwiseNot BitwiseOr BitwiseRightShift
    BitwiseXor BroadcastTo CDist CTCDecode CTCLoss Cast CategoricalCrossentropy
    Cbrt Ceil Celu Cholesky CholeskyInverse Clip Concatenate Conj Conjugate Conv
    ConvTranspose ConvertToTensor Copy Corrcoef Correlate Cos Cosh CountNonzero
    CropImages Cross Cumprod Cumsum Deg2rad DepthToSpace DepthwiseConv Det Diag
    Diagflat Diagonal Diff Digitize Divide DivideNoNan Dot DotProductAttention
    Dsplit Dstack Eig Eigh Einsum ElasticTransform Elu EmptyLike Equal Erf Erfc
    Erfinv Exp Exp2 ExpandDims Expm1 ExtractPatches ExtractSequences FFT FFT2
    Fabs Flip Fliplr Flipud Floor FloorDivide Fmax Fmin Fmod Fold Full FullLike
    GaussianBlur Gcd Gelu Geomspace GetItem Glu Greater GreaterEqual HSVToRGB
    HardShrink HardSigmoid HardSilu HardTanh Heaviside Histogram Hsplit Hstack
    Hypot I0 IFFT2 IRFFT ISTFT Imag InTopK Inner Inv IsIn Isclose Isfinite Isinf
    Isnan Isneginf Isposinf Isreal Kron LayerNorm Lcm Ldexp LeakyRelu LeftShift
    Less LessEqual Linspace Log Log10 Log1p Log2 LogSigmoid LogSoftmax Logaddexp
    Logaddexp2 Logdet LogicalAnd LogicalNot LogicalOr LogicalXor Logspace
    Logsumexp Lstsq LuFactor MapCoordinates Matmul MatrixRank Max MaxPool
    Maximum Mean Median Meshgrid Min Minimum Mod Moments Moveaxis MultiHot
    Multiply NanToNum Nanargmax Nanargmin Nancumprod Nancumsum Nanmax Nanmean
    Nanmedian Nanmin Nanpercentile Nanprod Nanquantile Nanstd Nansum Nanvar Ndim
    Negative Nextafter Nonzero Norm Normalize NotEqual OneHot OnesLike Outer
    PSNR Pad PadImages Percentile PerspectiveTransform Pinv Polar Power Prod Ptp
    Qr Quantile RFFT RGBToGrayscale RGBToHSV RMSNorm Rad2deg Ravel Real
    Rearrange Reciprocal Relu Relu6 Repeat Reshape Resize RightShift Roll Rot90
    Round Rsqrt SSIM STFT SVD SaturateCast ScaleAndTranslate Scatter
    ScatterUpdate SearchSorted SegmentMax SegmentMin SegmentProd
    SegmentReduction SegmentSum Select Selu SeparableConv Sigmoid Sign Signbit
    Silu Sin Sinc Sinh Size Slice SliceUpdate Slogdet SobelEdges SoftShrink
    Softmax Softplus Softsign Solve SolveTriangular Sort SpaceToDepth
    SparseCategoricalCrossentropy SparsePlus SparseSigmoid Sparsemax Split Sqrt
    Square Squareplus Squeeze Stack Std StopGradient Subtract Sum Swapaxes Take
    TakeAlongAxis Tan Tanh TanhShrink Tensordot Threshold Tile TopK Trace
    Transpose Trapezoid Tril Triu TrueDivide Trunc Unfold Unique UnravelIndex
    Unstack Vander Var Vdot View ViewAsComplex ViewAsReal Vsplit Vstack Where
    ZerosLike
    """
)

# What compiles a model. An inner model may be compiled although the outer
# one is not.
LOSSES = _names(
    """
    BinaryCrossentropy BinaryFocalCrossentropy CTC CategoricalCrossentropy
    CategoricalFocalCrossentropy CategoricalGeneralizedCrossEntropy
    CategoricalHinge Circle CosineSimilarity Dice Hinge Huber KLDivergence
    LogCosh Loss MeanAbsoluteError MeanAbsolutePercentageError MeanSquaredError
    MeanSquaredLogarithmicError Poisson Reduction SparseCategoricalCrossentropy
    SquaredHinge Tversky
    """
)

METRICS = _names(
    """
    AUC Accuracy BinaryAccuracy BinaryCrossentropy BinaryIoU CategoricalAccuracy
    CategoricalCrossentropy CategoricalHinge ConcordanceCorrelation
    CosineSimilarity F1Score FBetaScore FalseNegatives FalsePositives Hinge IoU
    KLDivergence LogCoshError Mean MeanAbsoluteError MeanAbsolutePercentageError
    MeanIoU MeanMetricWrapper MeanRelativeError MeanSquaredError
    MeanSquaredLogarithmicError MeanTensor Metric OneHotIoU OneHotMeanIoU
    PearsonCorrelation Poisson Precision PrecisionAtRecall R2Score Recall
    RecallAtPrecision RootMeanSquaredError SensitivityAtSpecificity
    SparseCategoricalAccuracy SparseCategoricalCrossentropy
    SparseTopKCategoricalAccuracy SpecificityAtSensitivity SquaredHinge Sum
    TopKCategoricalAccuracy TrueNegatives TruePositives
    """
)

OPTIMIZERS = _names(
    """
    Adadelta Adafactor Adagrad Adam AdamW Adamax CosineDecay CosineDecayRestarts
    ExponentialDecay Ftrl InverseTimeDecay Lamb LearningRateSchedule Lion
    LossScaleOptimizer MultiOptimizer Muon Nadam Optimizer
    PiecewiseConstantDecay PolynomialDecay RMSprop SGD ScheduleFreeAdamW
    """
)

# Activations, losses and metrics that are functions.
FUNCTIONS = _names(
    """
    KLD MAE MAPE MSE MSLE binary_accuracy binary_crossentropy
    binary_focal_crossentropy categorical_accuracy categorical_crossentropy
    categorical_focal_crossentropy categorical_generalized_cross_entropy
    categorical_hinge celu circle concordance_correlation cosine_similarity ctc
    dice elu exponential gelu glu hard_shrink hard_sigmoid hard_silu hard_swish
    hard_tanh hinge huber kl_divergence kld kullback_leibler_divergence
    leaky_relu linear log_cosh log_sigmoid log_softmax logcosh mae mape
    mean_absolute_error mean_absolute_percentage_error mean_squared_error
    mean_squared_logarithmic_error mish mse msle pearson_correlation poisson
    relu relu6 selu sigmoid silu soft_shrink softmax softplus softsign
    sparse_categorical_accuracy sparse_categorical_crossentropy sparse_plus
    sparse_sigmoid sparse_top_k_categorical_accuracy sparsemax squared_hinge
    squareplus swish tanh tanh_shrink threshold top_k_categorical_accuracy
    tversky
    """
)

# Of keras.ops, as activations.
OPERATION_FUNCTIONS = _names(
    """
    abs absolute adaptive_average_pool adaptive_max_pool add all allclose amax
    amin angle any append arange arccos arccosh arcsin arcsinh arctan arctan2
    arctanh argmax argmin argpartition argsort array array_split average
    average_pool bartlett batch_normalization binary_crossentropy bincount
    bitwise_and bitwise_invert bitwise_left_shift bitwise_not bitwise_or
    bitwise_right_shift bitwise_xor blackman broadcast_to cast
    categorical_crossentropy cbrt cdist ceil celu cholesky cholesky_inverse clip
    concatenate conj conjugate conv conv_transpose convert_to_tensor copy
    corrcoef correlate cos cosh count_nonzero cross ctc_decode ctc_loss cumprod
    cumsum deg2rad depth_to_space depthwise_conv det diag diagflat diagonal diff
    digitize divide divide_no_nan dot dot_product_attention dsplit dstack eig
    eigh einsum elu empty empty_like equal erf erfc erfinv exp exp2 expand_dims
    expm1 extract_sequences eye fabs fft fft2 flip fliplr flipud floor
    floor_divide fmax fmin fmod fold full full_like gcd gelu geomspace get_item
    glu greater greater_equal hamming hanning hard_shrink hard_sigmoid hard_silu
    hard_swish hard_tanh heaviside histogram hsplit hstack hypot i0 identity
    ifft2 imag in_top_k inner inv irfft isclose isfinite isin isinf isnan
    isneginf isposinf isreal istft kaiser kron layer_normalization lcm ldexp
    leaky_relu left_shift less less_equal linspace log log10 log1p log2
    log_sigmoid log_softmax logaddexp logaddexp2 logdet logical_and logical_not
    logical_or logical_xor logspace logsumexp lstsq lu_factor matmul matrix_rank
    max max_pool maximum mean median meshgrid min minimum mod moments moveaxis
    multi_hot multiply nan_to_num nanargmax nanargmin nancumprod nancumsum
    nanmax nanmean nanmedian nanmin nanpercentile nanprod nanquantile nanstd
    nansum nanvar ndim negative nextafter nonzero norm normalize not_equal
    one_hot ones ones_like outer pad percentile pinv polar power prod psnr ptp
    qr quantile rad2deg ravel real rearrange reciprocal relu relu6 repeat
    reshape rfft right_shift rms_normalization roll rot90 round rsqrt
    saturate_cast scatter scatter_update searchsorted segment_max segment_min
    segment_prod segment_sum select selu separable_conv sigmoid sign signbit
    silu sin sinc sinh size slice slice_update slogdet soft_shrink softmax
    softplus softsign solve solve_triangular sort space_to_depth
    sparse_categorical_crossentropy sparse_plus sparse_sigmoid sparsemax split
    sqrt square squareplus squeeze stack std stft stop_gradient subtract sum svd
    swapaxes swish take take_along_axis tan tanh tanh_shrink tensordot threshold
    tile top_k trace transpose trapezoid tri tril triu true_divide trunc unfold
    unique unravel_index unstack vander var vdot view view_as_complex
    view_as_real vsplit vstack where zeros zeros_like
    """
)
