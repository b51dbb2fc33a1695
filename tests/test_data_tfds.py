"""tensorflow-datasets from download to arrays, with a server on this machine."""

import functools
import hashlib
import http.server
import sys
import threading
import time

import numpy as np
import pytest

from iwae_jax import data
from iwae_jax.data import tfds as data_tfds
from tests import files

# TFDS, array_record and their protobufs warn of their own deprecations.
pytestmark = pytest.mark.filterwarnings("default")

IMAGES = files.images(2).reshape(2, 784)


@pytest.fixture
def served(tmp_path):
    """A folder, and the address at which a local server serves it."""
    folder = tmp_path / "served"
    folder.mkdir()

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(Handler, directory=str(folder))
    )
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield folder, f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


def checksums(folder, url):
    from tensorflow_datasets.core.download.checksums import UrlInfo

    return {
        url + file.name: UrlInfo(
            size=file.stat().st_size,
            checksum=hashlib.sha256(file.read_bytes()).hexdigest(),
            filename=file.name,
        )
        for file in folder.iterdir()
    }


def rows(values):
    """Sort the rows, because TFDS shuffles them by a hash."""
    return sorted(map(bytes, values.reshape(len(values), -1)))


def prepare(name, folder, url, data_dir, **attributes):
    attributes = {
        "url_infos": checksums(folder, url),
        "__module__": data_tfds.__name__,
        **attributes,
    }
    parent = data_tfds.builders()[name]
    kind = type(parent)(parent.__name__, (parent,), attributes, skip_registration=True)
    return kind(data_dir=data_dir, file_format="array_record")


def test_mnist(served, tmp_path):
    folder, url = served
    train, test = files.images(30), files.images(11, seed=1)
    files.write_mnist(folder, train, test)
    builder = prepare("mnist", folder, url, tmp_path / "tfds/iwae_jax", URL=url)
    splits = data_tfds.read_builder(builder)
    assert rows(splits["train"]) == rows(train)
    assert rows(splits["test"]) == rows(test)
    # A second process reads the cache, without TFDS and without the server.
    again = data_tfds.read("mnist", tmp_path / "tfds")
    np.testing.assert_array_equal(again["train"], splits["train"])
    mnist = data.load("mnist", "tfds", tmp_path / "tfds")
    assert (mnist.source, mnist.train.shape, mnist.test.shape) == ("tfds", (30, 784), (11, 784))
    # TFDS shuffles, but labels stay with their images, which files.write_mnist numbers.
    order = {image.tobytes(): number for number, image in enumerate(train.reshape(30, 784))}
    numbers = [order[row.tobytes()] for row in mnist.train]
    assert mnist.labels is not None
    assert mnist.labels["train"].tolist() == [number % 10 for number in numbers]
    assert "tensorflow" not in sys.modules


def test_the_records_are_the_official_ones(served, tmp_path):
    folder, url = served
    train, test = files.images(30), files.images(11, seed=1)
    files.write_mnist(folder, train, test)
    builder = prepare("mnist", folder, url, tmp_path / "tfds", URL=url)
    data_tfds.read_builder(builder)
    assert (builder.name, str(builder.version)) == ("mnist", "3.0.1")
    source = builder.as_data_source(split="test")
    by_image = {bytes(image): i % 10 for i, image in enumerate(test)}
    for record in source:
        assert record["image"].shape == (28, 28, 1)
        assert by_image[record["image"].tobytes()] == record["label"]


def test_binarized_mnist(served, tmp_path, monkeypatch):
    from tensorflow_datasets.datasets.binarized_mnist import binarized_mnist_dataset_builder

    folder, url = served
    monkeypatch.setattr(binarized_mnist_dataset_builder, "_URL", url)
    values = files.images(9) > 127
    parts = {"train": values[:5], "valid": values[5:7], "test": values[7:]}
    for split, part in parts.items():
        files.write_amat(folder / f"binarized_mnist_{split}.amat", part)
    builder = prepare("binarized_mnist", folder, url, tmp_path / "tfds")
    splits = data_tfds.read_builder(builder)
    assert {split: rows(part) for split, part in splits.items()} == {
        split: rows(part.astype(np.uint8)) for split, part in parts.items()
    }


def test_omniglot(served, tmp_path, monkeypatch):
    from tensorflow_datasets.image_classification import omniglot

    # One alphabet of three characters in place of 50 of 1,623.
    monkeypatch.setattr(omniglot, "_NUM_ALPHABETS", 1)
    monkeypatch.setattr(omniglot, "_NUM_CLASSES", 3)
    folder, url = served
    names = {
        "train": "images_background.zip",
        "eval": "images_evaluation.zip",
        "small1": "images_background_small1.zip",
        "small2": "images_background_small2.zip",
    }
    seeds = {
        "train": range(40),
        "eval": range(40, 60),
        "small1": range(20),
        "small2": range(20, 40),
    }
    for split, name in names.items():
        files.write_omniglot_zip(folder / name, seeds[split])
    urls = {split: url + name for split, name in names.items()}
    builder = prepare("omniglot", folder, url, tmp_path / "tfds", URLS=urls)
    splits = data_tfds.read_builder(builder)
    from iwae_jax.data.files import read_omniglot_zip

    assert set(splits) == {"train", "test"}
    for split, name in (("train", names["train"]), ("test", names["eval"])):
        expected = np.stack(list(read_omniglot_zip(folder / name).values()))
        assert rows(splits[split]) == rows(expected)


def test_a_wrong_checksum_is_refused(served, tmp_path):
    folder, url = served
    files.write_mnist(folder, files.images(30), files.images(11))
    right = checksums(folder, url)
    files.write_mnist(folder, files.images(30, seed=5), files.images(11))
    builder = prepare("mnist", folder, url, tmp_path / "tfds", URL=url, url_infos=right)
    with pytest.raises(ValueError, match="Expected the official checksum of mnist"):
        data_tfds.read_builder(builder)
    assert not list((tmp_path / "tfds").rglob("*.npz"))


def test_the_official_checksums_are_inherited():
    from tensorflow_datasets.image_classification import mnist

    for name, builder in data_tfds.builders().items():
        assert builder.url_infos, name
    official = mnist.MNIST.url_infos
    assert official is not None
    assert data_tfds.builders()["mnist"].url_infos == official
    assert all(len(info.checksum) == 64 for info in official.values())


def test_without_a_network_it_fails_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(data_tfds, "_SERVERS", {"mnist": "https://unreachable.invalid"})
    begun = time.monotonic()
    with pytest.raises(data.NotFoundError, match=r"no connection to https://unreachable\.invalid"):
        data.load("mnist", "tfds", tmp_path)
    assert time.monotonic() - begun < 10


def test_a_server_that_never_answers_is_given_up_on(monkeypatch):
    def hang(*_, **__):
        time.sleep(3)
        raise OSError("too late")

    monkeypatch.setattr(data_tfds, "CONNECT_SECONDS", 0.2)
    monkeypatch.setattr(data_tfds.urllib.request, "urlopen", hang)
    begun = time.monotonic()
    with pytest.raises(data_tfds.UnavailableError, match="no answer"):
        data_tfds.check_network("https://example.org")
    assert time.monotonic() - begun < 5


def test_a_proxy_that_refuses_is_no_network(served, monkeypatch):
    _, url = served  # this server answers CONNECT with 501
    monkeypatch.setenv("https_proxy", url)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    begun = time.monotonic()
    with pytest.raises(data_tfds.UnavailableError, match="no connection to https://example.org"):
        data_tfds.check_network("https://example.org")
    assert time.monotonic() - begun < 10


def test_any_answer_is_a_network(served):
    _, url = served
    data_tfds.check_network(url)
    data_tfds.check_network(url + "no/such/page")


def test_data_that_tensorflow_prepared_are_left_alone(served, tmp_path):
    folder, url = served
    files.write_mnist(folder, files.images(30), files.images(11))
    builder = prepare("mnist", folder, url, tmp_path / "tfds", URL=url)
    data_tfds.read_builder(builder)
    for cache in (tmp_path / "tfds").rglob("*.npz"):
        cache.unlink()
    (info,) = (tmp_path / "tfds").rglob("dataset_info.json")
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    data_tfds_servers = {"mnist": "http://127.0.0.1:9"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data_tfds, "_SERVERS", data_tfds_servers)
        with pytest.raises(data.NotFoundError, match="no connection"):
            data.load("mnist", "tfds", tmp_path / "tfds")


@pytest.mark.parametrize("content", [b"", b"not an npz file at all", b"PK\x03\x04 truncated"])
def test_a_damaged_cache_is_named(tmp_path, content):
    file = tmp_path / "iwae_jax/mnist/3.0.1" / data_tfds._CACHE_NAME
    file.parent.mkdir(parents=True)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="to be an undamaged npz file, got: .*Remove the file"):
        data.load("mnist", "tfds", tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"train": IMAGES}, "to contain test, train, got .'train'.. Remove the file"),
        ({"train": IMAGES, "test": IMAGES[:0]}, "to hold 1 to 1,048,576 images, got 0"),
        ({"train": IMAGES, "test": IMAGES[:, 1:]}, r"uint8 of shape \[n, 784\], got uint8"),
        ({"train": IMAGES, "test": IMAGES, "test_labels": [10, 0]}, r"in \[0, 9\], got 0 to 10"),
        ({"train": IMAGES, "test": IMAGES, "test_labels": [0]}, "to be 2 whole numbers"),
    ],
)
def test_a_cache_with_other_content_is_named(tmp_path, arrays, message):
    file = tmp_path / "iwae_jax/mnist/3.0.1" / data_tfds._CACHE_NAME
    file.parent.mkdir(parents=True)
    np.savez(file, **arrays)
    with pytest.raises(ValueError, match=message):
        data.load("mnist", "tfds", tmp_path)
