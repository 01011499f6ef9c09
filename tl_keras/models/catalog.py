"""The architectures by the values of --model.

Light to import: the flags are checked against this table before TensorFlow is loaded.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, Literal
from urllib.parse import urljoin

from tl_keras.errors import UsageError

Preprocessing = Literal["tf", "torch", "caffe", "none"]

_STORE = "https://storage.googleapis.com/tensorflow/keras-applications/"
_ENDING = "_weights_tf_dim_ordering_tf_kernels_notop.h5"
_SIZES = (128, 160, 192, 224)
_V2_SIZES = (96, 128, 160, 192, 224)


@dataclass(frozen=True)
class Entry:
    """One architecture.

    Attributes:
        function: name in keras.applications; empty for a model of our own.
        preprocessing: the mapping of pixels from 0 to 255: "tf" x / 127.5 - 1; "torch"
            0 to 1, minus ImageNet's mean, over its deviation; "caffe" BGR minus the mean; "none"
            raw pixels, because the model has its own preprocessing layers.
        weights: path of the ImageNet weights without top in Keras' store. The usual ending is added
            if it does not end in .h5. SIZE is one of `weights_sizes`. Empty without weights.
        weights_hash: md5 or sha256 of the weights in Keras; empty if Keras has none.
        image_size: side in pixels on which the weights were trained, the default of --image_size.
        min_size: smallest side in pixels.
        arguments: additional arguments of the function.
        weights_sizes: sides with separate weights. Other sides use the weights of `image_size`.
        weights_name: name of the file in Keras' cache, if it is not the last part of the URL.
    """

    function: str
    preprocessing: Preprocessing
    weights: str = ""
    weights_hash: str = ""
    image_size: int = 224
    min_size: int = 32
    arguments: Mapping[str, Any] = field(default_factory=dict)
    weights_sizes: tuple[int, ...] = ()
    weights_name: str = ""

    def weights_url(self, image_size: int) -> str:
        """Return the URL of the weights for images with sides of `image_size` pixels."""
        size = image_size if image_size in self.weights_sizes else self.image_size
        path = self.weights.replace("SIZE", str(size))
        return urljoin(_STORE, path if path.endswith(".h5") else path + _ENDING)

    def weights_file(self, image_size: int) -> str:
        """Return the name of the weights file in KERAS_HOME/models."""
        return self.weights_name or PurePosixPath(self.weights_url(image_size)).name


# fmt: off
# Rows of one or two lines are readable as a table.
MODELS: dict[str, Entry] = {
    "small_cnn": Entry("", "none", image_size=28, min_size=4),
    "conv4": Entry("", "none", image_size=28, min_size=4),
    "resnet50": Entry("ResNet50", "caffe", "resnet/resnet50", "4d473c1dd8becc155b73f8504c6f6626"),
    "resnet101": Entry("ResNet101", "caffe", "resnet/resnet101",
        "88cf7a10940856eca736dc7b7e228a21"),
    "resnet152": Entry("ResNet152", "caffe", "resnet/resnet152",
        "ee4c566cf9a93f14d82f913c2dc6dd0c"),
    "resnet50_v2": Entry("ResNet50V2", "tf", "resnet/resnet50v2",
        "fac2f116257151a9d068a22e544a4917"),
    "resnet101_v2": Entry("ResNet101V2", "tf", "resnet/resnet101v2",
        "c0ed64b8031c3730f411d2eb4eea35b5"),
    "resnet152_v2": Entry("ResNet152V2", "tf", "resnet/resnet152v2",
        "ed17cf2e0169df9d443503ef94b23b33"),
    "vgg16": Entry("VGG16", "caffe", "vgg16/vgg16", "6d6bbae143d832006294945121d1f1fc"),
    "vgg19": Entry("VGG19", "caffe", "vgg19/vgg19", "253f8cb515780f3b799900260a226db6"),
    "xception": Entry("Xception", "tf", "xception/xception", "b0042744bf5b25fce3cb969f33bebb97",
        image_size=299, min_size=71),
    "inception_v3": Entry("InceptionV3", "tf", "inception_v3/inception_v3",
        "bcbd6486424b2319ff4ef7d526e38f63", image_size=299, min_size=75),
    "inception_resnet_v2": Entry("InceptionResNetV2", "tf",
        "inception_resnet_v2/inception_resnet_v2", "d19885ff4a710c122648d3b5c3b684e4",
        image_size=299, min_size=75),
    "mobilenet": Entry("MobileNet", "tf", "mobilenet/mobilenet_1_0_SIZE_tf_no_top.h5",
        weights_sizes=_SIZES),
    "mobilenet_025": Entry("MobileNet", "tf", "mobilenet/mobilenet_2_5_SIZE_tf_no_top.h5",
        arguments={"alpha": 0.25}, weights_sizes=_SIZES),
    "mobilenet_v2": Entry("MobileNetV2", "tf",
        "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_SIZE_no_top.h5",
        weights_sizes=_V2_SIZES),
    "mobilenet_v2_035": Entry("MobileNetV2", "tf",
        "mobilenet_v2/mobilenet_v2_weights_tf_dim_ordering_tf_kernels_0.35_SIZE_no_top.h5",
        arguments={"alpha": 0.35}, weights_sizes=_V2_SIZES),
    "mobilenet_v3_small": Entry("MobileNetV3Small", "none",
        "mobilenet_v3/weights_mobilenet_v3_small_224_1.0_float_no_top_v2.h5",
        "d3e8ec802a04aa4fc771ee12a9a9b836"),
    "mobilenet_v3_large": Entry("MobileNetV3Large", "none",
        "mobilenet_v3/weights_mobilenet_v3_large_224_1.0_float_no_top_v2.h5",
        "07fb09a5933dd0c8eaafa16978110389"),
    "densenet121": Entry("DenseNet121", "torch", "densenet/densenet121",
        "30ee3e1110167f948a6b9946edeeb738"),
    "densenet169": Entry("DenseNet169", "torch", "densenet/densenet169",
        "b8c4d4c20dd625c148057b9ff1c1176b"),
    "densenet201": Entry("DenseNet201", "torch", "densenet/densenet201",
        "c13680b51ded0fb44dff2d8f86ac8bb1"),
    "nasnet_mobile": Entry("NASNetMobile", "tf", "nasnet/NASNet-mobile-no-top.h5",
        "1ed92395b5b598bdda52abe5c0dbfd63", weights_name="nasnet_mobile_no_top.h5"),
    "nasnet_large": Entry("NASNetLarge", "tf", "nasnet/NASNet-large-no-top.h5",
        "d81d89dc07e6e56530c4e77faddd61b5", image_size=331,
        weights_name="nasnet_large_no_top.h5"),
    "efficientnet_b0": Entry("EfficientNetB0", "none",
        "/keras-applications/efficientnetb0_notop.h5", "50bc09e76180e00e4465e1a485ddc09d"),
    "efficientnet_b1": Entry("EfficientNetB1", "none",
        "/keras-applications/efficientnetb1_notop.h5", "74c4e6b3e1f6a1eea24c589628592432",
        image_size=240),
    "efficientnet_b2": Entry("EfficientNetB2", "none",
        "/keras-applications/efficientnetb2_notop.h5", "111f8e2ac8aa800a7a99e3239f7bfb39",
        image_size=260),
    "efficientnet_b3": Entry("EfficientNetB3", "none",
        "/keras-applications/efficientnetb3_notop.h5", "af6d107764bb5b1abb91932881670226",
        image_size=300),
    "efficientnet_b4": Entry("EfficientNetB4", "none",
        "/keras-applications/efficientnetb4_notop.h5", "ebc24e6d6c33eaebbd558eafbeedf1ba",
        image_size=380),
    "efficientnet_b5": Entry("EfficientNetB5", "none",
        "/keras-applications/efficientnetb5_notop.h5", "38879255a25d3c92d5e44e04ae6cec6f",
        image_size=456),
    "efficientnet_b6": Entry("EfficientNetB6", "none",
        "/keras-applications/efficientnetb6_notop.h5", "9ecce42647a20130c1f39a5d4cb75743",
        image_size=528),
    "efficientnet_b7": Entry("EfficientNetB7", "none",
        "/keras-applications/efficientnetb7_notop.h5", "cbcfe4450ddf6f3ad90b1b398090fe4a",
        image_size=600),
    "efficientnet_v2_b0": Entry("EfficientNetV2B0", "none",
        "efficientnet_v2/efficientnetv2-b0_notop.h5", "893217f2bb855e2983157299931e43ff"),
    "efficientnet_v2_b1": Entry("EfficientNetV2B1", "none",
        "efficientnet_v2/efficientnetv2-b1_notop.h5", "0e80663031ca32d657f9caa404b6ec37",
        image_size=240),
    "efficientnet_v2_b2": Entry("EfficientNetV2B2", "none",
        "efficientnet_v2/efficientnetv2-b2_notop.h5", "1dfe2e7a5d45b6632553a8961ea609eb",
        image_size=260),
    "efficientnet_v2_b3": Entry("EfficientNetV2B3", "none",
        "efficientnet_v2/efficientnetv2-b3_notop.h5", "f6abf7b5849ac99a89b50dd3fd532856",
        image_size=300),
    "efficientnet_v2_s": Entry("EfficientNetV2S", "none",
        "efficientnet_v2/efficientnetv2-s_notop.h5", "af0682fb74e8c54910f2d4393339c070",
        image_size=384),
    "efficientnet_v2_m": Entry("EfficientNetV2M", "none",
        "efficientnet_v2/efficientnetv2-m_notop.h5", "1b8dc055df72dde80d614482840fe342",
        image_size=480),
    "efficientnet_v2_l": Entry("EfficientNetV2L", "none",
        "efficientnet_v2/efficientnetv2-l_notop.h5", "b0b66b5c863aef5b46e8608fe1711615",
        image_size=480),
    "convnext_tiny": Entry("ConvNeXtTiny", "none", "convnext/convnext_tiny_notop.h5",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1"),
    "convnext_small": Entry("ConvNeXtSmall", "none", "convnext/convnext_small_notop.h5",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab"),
    "convnext_base": Entry("ConvNeXtBase", "none", "convnext/convnext_base_notop.h5",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45"),
    "convnext_large": Entry("ConvNeXtLarge", "none", "convnext/convnext_large_notop.h5",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd"),
    "convnext_xlarge": Entry("ConvNeXtXLarge", "none", "convnext/convnext_xlarge_notop.h5",
        "de3f8a54174130e0cecdc71583354753d557fcf1f4487331558e2a16ba0cfe05"),
}
# fmt: on


def find(name: str) -> Entry:
    """Return the entry of the architecture `name`.

    Raises:
        UsageError: there is no such architecture.
    """
    if name in MODELS:
        return MODELS[name]
    close = difflib.get_close_matches(name, MODELS, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    raise UsageError(f"--model={name} is not known: {hint}Choose one of {', '.join(MODELS)}")
