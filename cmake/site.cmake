# Working from a build folder: <build>/site is laid out like an installed package, with links to the
# Python sources and the entry points, so that PYTHONPATH=<build>/site is all that a checkout needs.

add_custom_target(
  liger_site ALL
  COMMAND ${Python_EXECUTABLE} ${PROJECT_SOURCE_DIR}/scripts/dev_site.py ${PROJECT_SOURCE_DIR} ${LIGER_SITE_DIR}
  COMMENT "Linking the Python package into ${LIGER_SITE_DIR}"
  VERBATIM)
