"""Datasets people really have, as torch Datasets, and image files read and written with care."""

from robustrestore.data.camvid import CamVid as CamVid
from robustrestore.data.class_folder import ClassFolder as ClassFolder
from robustrestore.data.crops import Crops as Crops
from robustrestore.data.degraded import Degraded as Degraded
from robustrestore.data.download import DownloadError as DownloadError
from robustrestore.data.download import download as download
from robustrestore.data.fields import Fields as Fields
from robustrestore.data.image_file import ImageFileError as ImageFileError
from robustrestore.data.image_file import find_images as find_images
from robustrestore.data.image_file import load_image as load_image
from robustrestore.data.image_file import save_image as save_image
from robustrestore.data.image_folder import ImageFolder as ImageFolder
from robustrestore.data.image_folder import PairFolder as PairFolder
from robustrestore.data.paired_folder import PairedFolder as PairedFolder
from robustrestore.data.queries import Answered as Answered
from robustrestore.data.queries import Mixed as Mixed
from robustrestore.data.queries import Noisy as Noisy
from robustrestore.data.queries import RandomFields as RandomFields
from robustrestore.data.queries import Unlabelled as Unlabelled
from robustrestore.data.queries import overlap as overlap
from robustrestore.data.scenes import Scenes as Scenes
