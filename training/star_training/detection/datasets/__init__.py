"""Data sets with boxes: COCO, Pascal VOC and Parquet files."""
